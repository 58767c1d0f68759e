%% Hosts with a daemon each, whose names nothing resolves, and one Redis.
-module(repmd_hosts_tests).

-include_lib("eunit/include/eunit.hrl").

-import(lab, [module_flags/1, with/2]).

%% The store, and a daemon on each host.
start(Hosts) ->
    Store = lab:redis(),
    [Store | [lab:repmd(Host, ["--backend", lab:store(), "--lease-ttl", "3s"]) || Host <- Hosts]].

on_beta(Release, Flags, Expression) -> lab:evaluate(beta, {Release, "bar@beta"}, Flags, Expression).

a_node_of_another_host_is_dialled_by_its_full_name_alone_test_() ->
    Ping = "net_adm:ping('foo@alpha')",
    with(fun() -> start([alpha, beta]) ++ [lab:node(alpha, bookworm, "foo@alpha")] end,
         [{Why, ?_assertEqual(Expected, on_beta(Release, Flags, Ping))}
          || {Why, Expected, Release, Flags} <-
                 [{"without the module", "pang", bookworm, []} |
                  [{atom_to_list(Of), "pong", Of, module_flags(Of)} || Of <- [bookworm, trixie]]]]).

stock_daemons_know_of_no_other_host_test_() ->
    with(fun() -> [lab:stock_epmd(alpha), lab:stock_epmd(beta), lab:node(alpha, bookworm, "foo@alpha")] end,
         [?_assertEqual("pang", on_beta(bookworm, module_flags(bookworm), "net_adm:ping('foo@alpha')"))]).

the_names_of_another_host_come_from_its_own_daemon_test_() ->
    Names = "case net_adm:names(alpha) of {ok, N} -> lists:sort([A || {A, _} <- N]); E -> E end",
    Timed = "{Us, Names} = timer:tc(net_adm, names, [alpha]), {Names, Us div 1000}",
    Nodes = ["foo@alpha", "baz@alpha"],
    with(fun() -> start([alpha, beta]) ++ [lab:node(alpha, bookworm, Name) || Name <- Nodes] end,
         [?_assertEqual("[\"baz\",\"foo\"]", on_beta(bookworm, module_flags(bookworm), Names)),
          {"nor do they take longer than 1500 ms when it is cut off",
           fun() ->
                   lab:link(alpha, down),
                   {ok, Tokens, _} = erl_scan:string(on_beta(bookworm, module_flags(bookworm), Timed) ++ "."),
                   lab:link(alpha, up),
                   {ok, {Result, Ms}} = erl_parse:parse_term(Tokens),
                   ?assertEqual({error, address}, Result),
                   ?assert(Ms =< 1500)
           end}]).

%% The bar is 100 ms; the machine may be busy, so it is held by the median.
a_node_can_be_dialled_soon_after_it_registered_test_() ->
    with(fun() -> start([alpha, beta]) end,
         [fun() ->
                  Took = lists:sort([time_to_dial("foo" ++ integer_to_list(N)) || N <- lists:seq(1, 5)]),
                  io:format(user, "~nfrom registered to pong: ~w ms~n", [Took]),
                  ?assert(lists:nth(3, Took) =< 100)
          end]).

%% The milliseconds from when the daemon of alpha knows the node until a node of beta has its pong. That one
%% has asked for it all the time, so that all that remembers has remembered that there is none.
time_to_dial(Name) ->
    Node = Name ++ "@alpha",
    Me = self(),
    Ping = ["Ping = fun F() -> net_adm:ping('", Node, "') =:= pong orelse F() end, "
            "Ping(), os:system_time(millisecond)"],
    spawn_link(fun() -> Me ! {Name, list_to_integer(on_beta(bookworm, module_flags(bookworm), Ping))} end),
    lab:wait_until(fun() -> lab:registered(beta, "bar") end),
    Program = lab:spawn_node(alpha, bookworm, Node, []),
    Registered = time_of_registration(Name),
    Pong = receive {Name, At} -> At end,
    lab:stop(Program),
    Pong - Registered.

time_of_registration(Name) ->
    case lab:registered(alpha, Name) of
        true -> os:system_time(millisecond);
        false -> time_of_registration(Name)
    end.

nodes_of_one_alive_name_form_a_cluster_and_heal_test_() ->
    Hosts = [alpha, beta, gamma],
    Options = "[{hosts, [alpha, beta, gamma]}, {match, \"^app@\"}, {interval, 200}]",
    Flags = module_flags(bookworm) ++
            ["-kernel", "net_ticktime", "4", "-repmd", "cluster", Options,
             "-eval", "ok = application:start(repmd)."],
    App = fun(Host) -> lab:node(Host, bookworm, lists:concat(["app@", Host]), Flags) end,
    with(fun() -> start(Hosts) ++ [App(Host) || Host <- Hosts] end,
         [{"it forms", ?_test(lab:wait_until(fun() -> nodes_of_app() =:= "[app@beta,app@gamma]" end))},
          {"a cut is seen", fun() ->
                                    lab:link(gamma, down),
                                    lab:wait_until(fun() -> nodes_of_app() =:= "[app@beta]" end)
                            end},
          {"and heals", fun() ->
                                lab:link(gamma, up),
                                lab:wait_until(fun() -> nodes_of_app() =:= "[app@beta,app@gamma]" end)
                        end}]).

%% What app@alpha is connected to. It is asked by a hidden node, which joins nothing.
nodes_of_app() ->
    lab:evaluate(alpha, {bookworm, "asker@alpha"}, ["-hidden" | module_flags(bookworm)],
                 "lists:sort(rpc:call('app@alpha', erlang, nodes, []))").
