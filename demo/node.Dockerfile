# Erlang with the application of erlang/repmd and the nodes of the demo.
FROM erlang:25
COPY erlang/repmd/src/* demo/*.erl /opt/repmd/
RUN cd /opt/repmd && erlc *.erl && mv repmd.app.src repmd.app
# Nodes look for their cookie there.
ENV HOME=/tmp
USER 65534:65534
