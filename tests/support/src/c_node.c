/* A node written in C: c_node ALIVE_NAME COOKIE HOST ADDRESS [PEER PEER_ADDRESS]
 *
 * It listens at ADDRESS, registers with the EPMD on ERL_EPMD_PORT, dials the node PEER whose EPMD is at PEER_ADDRESS,
 * writes "registered", answers each {Pid, Anything} that an Erlang node sends it with `answered`, and ends when one
 * that it is connected with disconnects. */
#include <ei.h>
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { STREAMS_MAX = 8 };

static void demand(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "c_node: cannot %s (erl_errno %d)\n", what, erl_errno);
        exit(1);
    }
}

static void serve(int stream) {
    erlang_msg message;
    erlang_pid asker;
    ei_x_buff asked, answer;
    int version, arity, index = 0, kind;

    demand(ei_x_new(&asked) == 0 && ei_x_new_with_version(&answer) == 0, "get memory");
    kind = ei_xreceive_msg(stream, &message, &asked);
    if (kind == ERL_ERROR)
        exit(0);
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

int main(int argc, char **argv) {
    char full_name[MAXNODELEN + 1];
    struct in_addr here, there;
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    struct pollfd polled[1 + STREAMS_MAX];
    int count = 1;
    ei_cnode node;
    ErlConnect peer;

    demand((argc == 5 || argc == 7) && inet_aton(argv[4], &here), "read the arguments");
    address.sin_addr = here;
    snprintf(full_name, sizeof full_name, "%s@%s", argv[1], argv[3]);
    demand(ei_init() == 0, "start ei");
    demand(ei_connect_xinit(&node, argv[3], argv[1], full_name, &here, argv[2], 1) == 0, "be a node");
    polled[0].fd = socket(AF_INET, SOCK_STREAM, 0);
    demand(bind(polled[0].fd, (struct sockaddr *)&address, length) == 0 && listen(polled[0].fd, 5) == 0, "listen");
    demand(getsockname(polled[0].fd, (struct sockaddr *)&address, &length) == 0, "learn the port");
    demand(ei_publish(&node, ntohs(address.sin_port)) >= 0, "register");
    if (argc == 7) {
        demand(inet_aton(argv[6], &there), "read the address of the peer");
        polled[count++].fd = ei_xconnect(&node, &there, argv[5]);
        demand(polled[1].fd >= 0, "dial the peer");
    }
    puts("registered");
    fflush(stdout);

    for (;;) {
        for (int at = 0; at < count; at++)
            polled[at].events = POLLIN;
        demand(poll(polled, count, -1) > 0, "wait");
        for (int at = 1; at < count; at++)
            if (polled[at].revents)
                serve(polled[at].fd);
        if (polled[0].revents) {
            demand(count <= STREAMS_MAX, "have so many connections");
            polled[count].fd = ei_accept(&node, polled[0].fd, &peer);
            demand(polled[count].fd >= 0, "accept a node");
            polled[count++].revents = 0;
        }
    }
}
