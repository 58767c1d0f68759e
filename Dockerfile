# The daemon, and nothing else: docker build -t repmd .
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cp "$(deploy/static-build)" /

FROM scratch
COPY --from=build /repmd /repmd
# Any user but root: it opens no file, and its port is no privileged one.
USER 65534:65534
EXPOSE 4369
HEALTHCHECK CMD ["/repmd", "names"]
ENTRYPOINT ["/repmd"]
CMD ["serve"]
