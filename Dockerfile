# The daemon, and nothing else: docker build -t repmd .
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# Without shared libraries.
RUN triple="$(uname -m)-unknown-linux-gnu" \
    && RUSTFLAGS="-C target-feature=+crt-static" \
        cargo build --release --locked --bin repmd --target "$triple" \
    && cp "target/$triple/release/repmd" /

FROM scratch
COPY --from=build /repmd /repmd
# Any user but root: it opens no file, and its port is no privileged one.
USER 65534:65534
EXPOSE 4369
HEALTHCHECK CMD ["/repmd", "names"]
ENTRYPOINT ["/repmd"]
CMD ["serve"]
