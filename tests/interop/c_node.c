/* A node written in C: c_node ALIVE_NAME COOKIE
 *
 * It registers with the EPMD on ERL_EPMD_PORT, writes "registered", answers each {Pid, Anything} that an
 * Erlang node sends it with `answered`, and ends when that node disconnects. */
#include <ei.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static void demand(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "c_node: cannot %s (erl_errno %d)\n", what, erl_errno);
        exit(1);
    }
}

int main(int argc, char **argv) {
    char full_name[MAXNODELEN + 1];
    struct in_addr loopback = {htonl(INADDR_LOOPBACK)};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = loopback};
    socklen_t length = sizeof address;
    ei_cnode node;
    ErlConnect peer;
    int listener, stream;

    demand(argc == 3, "read the arguments");
    snprintf(full_name, sizeof full_name, "%s@localhost", argv[1]);
    demand(ei_init() == 0, "start ei");
    demand(ei_connect_xinit(&node, "localhost", argv[1], full_name, &loopback, argv[2], 1) == 0, "be a node");
    listener = socket(AF_INET, SOCK_STREAM, 0);
    demand(bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, 5) == 0, "listen");
    demand(getsockname(listener, (struct sockaddr *)&address, &length) == 0, "learn the port");
    demand(ei_publish(&node, ntohs(address.sin_port)) >= 0, "register");
    puts("registered");
    fflush(stdout);

    stream = ei_accept(&node, listener, &peer);
    demand(stream >= 0, "accept a node");
    for (;;) {
        erlang_msg message;
        erlang_pid asker;
        ei_x_buff asked, answer;
        int version, arity, index = 0, kind;

        demand(ei_x_new(&asked) == 0 && ei_x_new_with_version(&answer) == 0, "get memory");
        kind = ei_xreceive_msg(stream, &message, &asked);
        if (kind == ERL_ERROR)
            return 0;
        /* Others are ticks, and what the node says of itself. */
        if (kind == ERL_MSG && message.msgtype == ERL_REG_SEND &&
            ei_decode_version(asked.buff, &index, &version) == 0 &&
            ei_decode_tuple_header(asked.buff, &index, &arity) == 0 &&
            ei_decode_pid(asked.buff, &index, &asker) == 0) {
            ei_x_encode_atom(&answer, "answered");
            demand(ei_send(stream, &asker, answer.buff, answer.index) == 0, "answer");
        }
        ei_x_free(&asked);
        ei_x_free(&answer);
    }
}
