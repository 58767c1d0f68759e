-module(repmd_epmd_tests).

-include_lib("eunit/include/eunit.hrl").

-import(lab, [module_flags/1, with/2]).

-define(STOCK, []).
%% The flags of a node that dials by repmd, of OTP 25.
-define(MODULE_FLAGS, module_flags(bookworm)).

path(Release) -> ["-pa", "/mnt/" ++ atom_to_list(Release)].

ping(Node) -> "net_adm:ping('" ++ Node ++ "')".

%% The flags of a node whose resolver knows an address of `Host'.
inetrc(Host, Address) ->
    ok = file:write_file("/mnt/inetrc", ["{host, {", Address, "}, [\"", Host, "\"]}. {lookup, [file]}.\n"]),
    ["-kernel", "inetrc", "\"/mnt/inetrc\""].

%% What a node of OTP 25 on alpha prints.
on_alpha(Name, Arguments, Expression) -> lab:evaluate(alpha, {bookworm, Name}, Arguments, Expression).

%% A daemon that knows of foo@alpha.
foo() -> foo(?STOCK).

foo(Arguments) -> foo(Arguments, lab:address(alpha)).

foo(Arguments, Advertised) ->
    fun() -> [lab:repmd(alpha, Advertised, []), lab:node(alpha, bookworm, "foo@alpha", Arguments)] end.

%% ---- In real nodes

every_release_dials_the_others_by_repmd_alone_test_() ->
    Node = fun(Release) -> lists:concat([Release, "@alpha"]) end,
    Start = fun() -> [lab:repmd(alpha, []) | [lab:node(alpha, Of, Node(Of)) || Of <- lab:releases()]] end,
    Dial = fun(Of, Arguments) ->
                   Nodes = [list_to_atom(Node(Other)) || Other <- others(Of)],
                   Ping = io_lib:format("lists:usort([net_adm:ping(Node) || Node <- ~0p])", [Nodes]),
                   lab:evaluate(alpha, {Of, "bar@alpha"}, Arguments, Ping)
           end,
    with(Start,
         [{lists:concat([Of, ": ", Why]), ?_assertEqual(Expected, Dial(Of, Arguments))}
          || {Of, Arguments, Expected, Why} <-
                 [{Of, ?STOCK, "[pang]", "without the module"} || Of <- lab:releases()] ++
                 [{Of, module_flags(Of), "[pong]", "with it"} || Of <- [bookworm, trixie, sid]] ++
                 [{Of, ["-kernel", "epmd_module", "repmd_epmd" | path(Of)], "[pong]", "as a parameter"}
                  || Of <- [trixie, sid]] ++
                 [{bullseye, module_flags(bullseye), "[pang]", "before OTP 24.2, DNS must know the host"}]]).

%% A release talks to the two before it and the two after it.
others(Release) -> [Other || Other <- lab:releases(), abs(lab:otp(Other) - lab:otp(Release)) =< 2].

before_otp_24_2_it_works_where_dns_knows_the_host_test_() ->
    %% By another address, so that only repmd's answer leads to the node.
    Dial = fun(Arguments) ->
                   lab:evaluate(alpha, {bullseye, "bar@alpha"}, inetrc("alpha", "10,77,0,9") ++ Arguments,
                                ping("foo@alpha"))
           end,
    with(foo(), [?_assertEqual("pang", Dial(?STOCK)),
                 ?_assertEqual("pong", Dial(module_flags(bullseye)))]).

only_the_dialler_needs_it_test_() ->
    with(foo(?MODULE_FLAGS),
         [?_assertEqual("pang", on_alpha("bar@alpha", ?STOCK, ping("foo@alpha"))),
          ?_assertEqual("pong", on_alpha("bar@alpha", ?MODULE_FLAGS, ping("foo@alpha")))]).

a_host_has_other_names_too_test_() ->
    Dial = fun(Node) -> on_alpha("bar@alpha.example", ?MODULE_FLAGS, ping(Node)) end,
    with(fun() -> [lab:repmd(alpha, ["--alias", "alpha.example"]),
                   lab:node(alpha, bookworm, "foo@alpha.example")] end,
         [?_assertEqual("pong", Dial("foo@alpha.example")),
          ?_assertEqual("pang", Dial("foo@beta.example"))]).

ipv6_test_() ->
    IPv6 = ["-proto_dist", "inet6_tcp"],
    with(foo(IPv6, lab:address6(alpha)),
         [?_assertEqual("pong", on_alpha("bar@alpha", IPv6 ++ ?MODULE_FLAGS, ping("foo@alpha")))]).

an_address_of_the_other_family_is_passed_over_test_() ->
    with(foo(?STOCK, lab:address6(alpha) ++ "," ++ lab:address(alpha)),
         [?_assertEqual("pong", on_alpha("bar@alpha", ?MODULE_FLAGS, ping("foo@alpha")))]).

a_port_that_is_another_outside_is_no_trouble_on_the_host_itself_test_() ->
    %% As behind a published port: nothing is at the advertised address.
    Port = ["-kernel", "inet_dist_listen_min", "9100", "-kernel", "inet_dist_listen_max", "9100"],
    Start = fun() -> [lab:repmd(alpha, "10.77.0.9", ["--advertise-port", "9100=9101"]),
                      lab:node(alpha, bookworm, "foo@alpha", Port)] end,
    with(Start, [?_assertEqual("pong", on_alpha("bar@alpha", ?MODULE_FLAGS, ping("foo@alpha")))]).

tls_test_() ->
    Tls = ["-proto_dist", "inet_tls", "-ssl_dist_optfile", "/mnt/tls/options"],
    with(foo(Tls), [?_assertEqual("pong", on_alpha("bar@alpha", Tls ++ ?MODULE_FLAGS, ping("foo@alpha"))),
                    %% So the node does insist on TLS.
                    ?_assertEqual("pang", on_alpha("bar@alpha", ?MODULE_FLAGS, ping("foo@alpha")))]).

another_port_for_the_daemon_test_() ->
    Port = ["-epmd_port", "14369"],
    Start = fun() -> [lab:repmd(alpha, ["--port", "4369"]), lab:repmd(alpha, ["--port", "14369"]),
                      lab:spawn_node(alpha, bookworm, "foo@alpha", Port)] end,
    Ping = fun() -> on_alpha("bar@alpha", Port ++ ?MODULE_FLAGS, ping("foo@alpha")) end,
    with(Start, [?_test(lab:wait_until(fun() -> Ping() =:= "pong" end)),
                 ?_assertEqual("pang", on_alpha("bar@alpha", ?MODULE_FLAGS, ping("foo@alpha")))]).

net_adm_lists_a_host_that_dns_does_not_know_test_() ->
    Names = "case net_adm:names(alpha) of {ok, N} -> lists:sort([A || {A, _} <- N]); E -> E end",
    World = "lists:sort(net_adm:world_list([alpha]))",
    with(foo(), [?_assertEqual("{error,nxdomain}", on_alpha("bar@alpha", ?STOCK, Names)),
                 ?_assertEqual("[\"bar\",\"foo\"]", on_alpha("bar@alpha", ?MODULE_FLAGS, Names)),
                 ?_assertEqual("[bar@alpha,foo@alpha]", on_alpha("bar@alpha", ?MODULE_FLAGS, World))]).

tools_ask_for_a_port_by_name_or_address_test_() ->
    Ask = fun(Name, Host) ->
                  Call = io_lib:format("repmd_epmd:port_please(~0p, ~0p)", [Name, Host]),
                  Found = ["case ", Call, " of {port, _, 6} -> found; Error -> Error end"],
                  on_alpha("bar@alpha", ?MODULE_FLAGS, Found)
          end,
    with(foo(), [?_assertEqual("found", Ask("foo", "alpha")),
                 ?_assertEqual("found", Ask(foo, alpha)),
                 ?_assertEqual("found", Ask("foo", {127, 0, 0, 1})),
                 ?_assertEqual("noport", Ask("nobody", "alpha"))]).

a_node_that_gets_its_name_later_test_() ->
    Start = "{ok, _} = net_kernel:start(['bar@alpha', shortnames]), erlang:set_cookie(lab), ",
    Connect = "net_kernel:connect_node('foo@alpha')",
    with(foo(), [?_assertEqual("pong", on_alpha("", ?MODULE_FLAGS, Start ++ ping("foo@alpha"))),
                 ?_assertEqual("true", on_alpha("undefined", ?MODULE_FLAGS, Connect))]).

with_a_stock_daemon_all_is_as_without_the_module_test_() ->
    Compared = "{net_adm:ping('foo@10.77.0.1'), net_adm:ping('no@10.77.0.1'), net_adm:ping('foo@a.example'),"
               "element(1, net_adm:names('10.77.0.1')), net_adm:names('a.example')}",
    Expected = "{pong,pang,pang,ok,{error,nxdomain}}",
    with(fun() -> [lab:stock_epmd(alpha), lab:node(alpha, bookworm, "foo@10.77.0.1")] end,
         [?_assertEqual(Expected, on_alpha("bar@10.77.0.1", Flags, Compared))
          || Flags <- [?STOCK, ?MODULE_FLAGS]]).

a_daemon_that_hangs_costs_a_connection_no_more_than_1500_ms_test_() ->
    {timeout, 120,
     fun() ->
             [Daemon | _] = Programs = (foo())(),
             Signal = fun(Name) -> ["\"\" = os:cmd(\"kill -", Name, " ", lab:pid(Daemon), "\"), "] end,
             Timed = "{Us, Pang} = timer:tc(net_adm, ping, ['foo@alpha']), ",
             Hang = [Signal("STOP"), Timed, Signal("CONT"), "{Pang, Us div 1000, ", ping("foo@alpha"), "}"],
             %% DNS knows an address too, where no daemon is: so that the module is asked a second time.
             Flags = inetrc("alpha", "10,77,0,2") ++ ?MODULE_FLAGS,
             {match, [Ms]} = re:run(on_alpha("bar@alpha", Flags, Hang), "^{pang,([0-9]+),pong}$",
                                    [{capture, [1], list}]),
             lists:foreach(fun lab:stop/1, Programs),
             ?assert(1400 =< list_to_integer(Ms)),
             ?assert(list_to_integer(Ms) =< 1500)
     end}.

%% ---- In this emulator, with a daemon that answers anything

whatever_comes_back_is_no_crash_test_() ->
    Good = reply(6, 5, "repmd/1 addr=10.0.0.1 host=hosta"),
    Found = {ok, {10, 0, 0, 1}, 4000, 6},
    NotFound = {error, nxdomain},
    Ask = fun() -> repmd_epmd:address_please("foo", "x.invalid", inet) end,
    [{Why, ?_assertEqual(Expected, answered(Reply, Ask))}
     || {Why, Expected, Reply} <-
            [{"all is well", Found, Good},
             {"several addresses", Found, reply(6, 5, "repmd/1 addr=fd00::1,10.0.0.1,10.0.0.2 host=hosta")},
             {"words of later versions", Found, reply(6, 5, "repmd/1 x tls=1 addr=10.0.0.1 host=hosta y=")},
             {"an old node", {ok, {10, 0, 0, 1}, 4000, 5}, reply(5, 5, "repmd/1 addr=10.0.0.1 host=hosta")},
             {"a node of later versions too", Found, reply(7, 5, "repmd/1 addr=10.0.0.1 host=hosta")},
             {"no version in common: too new", NotFound, reply(8, 7, "repmd/1 addr=10.0.0.1 host=hosta")},
             {"no version in common: too old", NotFound, reply(4, 1, "repmd/1 addr=10.0.0.1 host=hosta")},
             {"no address of the family", NotFound, reply(6, 5, "repmd/1 addr=fd00::1 host=hosta")},
             {"no address", NotFound, reply(6, 5, "repmd/1 addr= host=hosta")},
             {"no such name", NotFound, <<$w, 1>>},
             {"a literal node's own extra", NotFound, reply(6, 5, "mine")},
             {"no extra", NotFound, reply(6, 5, "")},
             {"an extra that is no text", NotFound, reply(6, 5, <<255, 254, 0>>)},
             {"a later format", NotFound, reply(6, 5, "repmd/2 addr=10.0.0.1")},
             {"another protocol", NotFound, <<"HTTP/1.1 400 Bad Request\r\n\r\n">>},
             {"a close", NotFound, <<>>}]] ++
    [?_test([?assertEqual({Cut, NotFound}, {Cut, answered(binary_part(Good, 0, Cut), Ask)})
             || Cut <- lists:seq(1, byte_size(Good) - 1)])].

whatever_is_asked_is_no_crash_test_() ->
    [?_assertMatch({error, _}, answered(<<$w, 1>>, fun() -> repmd_epmd:address_please(Name, Host, inet) end))
     || {Name, Host} <- [{"foo", ""}, {"", ""}, {"foo", "a@b"}, {"fo" ++ [246], "x.invalid"},
                         {lists:duplicate(70000, $x), "x.invalid"}, {[16#10ffff], "x.invalid"}]].

%% What `Ask' gives while a daemon at this emulator's port answers all with `Reply' and closes.
answered(Reply, Ask) ->
    {ok, Listener} = gen_tcp:listen(4369, [binary, {ip, {127, 0, 0, 1}}, {active, false}, {reuseaddr, true}]),
    {Pid, Monitor} = spawn_monitor(fun() -> answer(Listener, Reply) end),
    try
        Ask()
    after
        gen_tcp:close(Listener),
        receive {'DOWN', Monitor, process, Pid, _} -> ok end
    end.

answer(Listener, Reply) ->
    case gen_tcp:accept(Listener) of
        {ok, Socket} ->
            {ok, <<Length:16>>} = gen_tcp:recv(Socket, 2),
            {ok, _} = gen_tcp:recv(Socket, Length),
            ok = gen_tcp:send(Socket, Reply),
            gen_tcp:close(Socket),
            answer(Listener, Reply);
        {error, closed} -> ok
    end.

reply(High, Low, Extra) ->
    Text = iolist_to_binary(Extra),
    <<$w, 0, 4000:16, 77, 0, High:16, Low:16, 3:16, "foo", (byte_size(Text)):16, Text/binary>>.
