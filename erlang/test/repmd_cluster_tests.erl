-module(repmd_cluster_tests).

-include_lib("eunit/include/eunit.hrl").

-import(lab, [module_flags/1, with/2]).

-export([dial/2, dial_slowly/2, refuse/2, connected/1]).

with_nodes(Host, Names) -> [lab:repmd(Host, []) | [lab:node(Host, bookworm, Name) || Name <- Names]].

%% ---- In real nodes

%% What bar@alpha prints, a node that starts the application with these options. `Wait' takes the nodes to be
%% connected to.
bar(Options, Expression) ->
    Flags = ["-repmd", "cluster", lists:flatten(io_lib:format("~0p", [Options])),
             "-eval", "ok = application:start(repmd)."] ++ module_flags(bookworm),
    Wait = "Wait = fun F(Nodes) -> "
           "lists:sort(nodes()) =:= Nodes orelse timer:sleep(10) =/= ok orelse F(Nodes) end, ",
    lab:evaluate(alpha, {bookworm, "bar@alpha"}, Flags, [Wait, Expression]).

it_connects_to_the_nodes_of_its_own_host_test_() ->
    with(fun() -> with_nodes(alpha, ["foo@alpha", "baz@alpha"]) end,
         [?_assertEqual("true", bar([], "Wait(['baz@alpha', 'foo@alpha'])"))]).

it_connects_again_test_() ->
    with(fun() -> [lab:repmd(alpha, [])] end,
         [fun() ->
                  Me = self(),
                  Expression = "Wait(['foo@alpha']), rpc:cast('foo@alpha', erlang, halt, []), Wait([]), "
                               "Wait(['foo@alpha'])",
                  spawn_link(fun() -> Me ! {bar, bar([{interval, 100}], Expression)} end),
                  lab:wait_until(fun() -> lab:registered(alpha, "bar") end),
                  First = lab:node(alpha, bookworm, "foo@alpha"),
                  lab:wait_until(fun() -> not lab:is_alive(First) end),
                  Second = lab:node(alpha, bookworm, "foo@alpha"),
                  receive {bar, Printed} -> ?assertEqual("true", Printed) end,
                  lists:foreach(fun lab:stop/1, [First, Second])
          end]).

%% ---- In this emulator, asked as libcluster asks

%% The struct of libcluster, as `Cluster.Supervisor' fills it in.
topology(Me, Config, Connect, Connected) ->
    #{'__struct__' => 'Elixir.Cluster.Strategy.State', topology => test, meta => nil,
      connect => {?MODULE, Connect, [Me]},
      disconnect => {erlang, disconnect_node, []},
      list_nodes => {?MODULE, connected, [Connected]},
      config => [{interval, 50} | Config]}.

connected(Nodes) -> Nodes.

dial({Pid, Test}, Node) -> Pid ! {Test, Node}, true.

dial_slowly(Me, 'slow@lab') -> dial(Me, 'slow@lab'), receive never -> true end;
dial_slowly(Me, Node) -> dial(Me, Node).

refuse(Me, Node) -> dial(Me, Node), error(refused).

%% The nodes that are dialled, in the time in which one@lab is dialled five times.
dials(Config, Connect, Connected) ->
    Test = make_ref(),
    {ok, Pid} = repmd_cluster:start_link([topology({self(), Test}, Config, Connect, Connected)]),
    Dialled = dialled(Test, 5),
    unlink(Pid),
    exit(Pid, kill),
    Dialled.

dialled(_Test, 0) -> [];
dialled(Test, Times) ->
    receive
        {Test, 'one@lab'} -> ['one@lab' | dialled(Test, Times - 1)];
        {Test, Other} -> [Other | dialled(Test, Times)]
    after 10000 -> error(not_dialled)
    end.

nodes_of_lab_test_() ->
    One = ['one@lab'],
    Both = ['one@lab', 'two@lab'],
    with(fun() -> with_nodes(lab, ["one@lab", "two@lab"]) end,
         [{Why, ?_assertEqual(Expected, lists:usort(dials(Config, Connect, Connected)))}
          || {Why, Expected, Config, Connect, Connected} <-
                 [{"all of a host that is named", Both, [{hosts, ["lab"]}], dial, []},
                  {"only what matches", One, [{hosts, [lab]}, {match, "^one"}], dial, []},
                  {"as Elixir writes it", One, [{hosts, [<<"lab">>]}, {match, <<"^one@">>}], dial, []},
                  {"not what is connected", One, [{hosts, ["lab"]}], dial, ['two@lab']},
                  {"a host is away", Both, [{hosts, ["no.invalid", "lab"]}], dial, []},
                  {"an API is away", Both, [{api, "http://127.0.0.1:1"}, {hosts, ["lab"]}], dial, []},
                  {"a dial crashes", Both, [{hosts, ["lab"]}], refuse, []}]]).

a_dial_under_way_is_not_begun_again_test_() ->
    with(fun() -> with_nodes(lab, ["one@lab", "slow@lab"]) end,
         [fun() ->
                  Dialled = dials([{hosts, ["lab"]}], dial_slowly, []),
                  ?assertEqual(['slow@lab'], [Node || Node <- Dialled, Node =/= 'one@lab'])
          end]).

an_option_that_is_none_is_refused_test_() ->
    [?_assertMatch({error, {bad_option, Option}}, repmd_cluster:start_link([#{config => [Option]}]))
     || Option <- [{host, "a"}, {match, "("}, {interval, 0}, {interval, "5"}, hosts]].

without_options_the_application_connects_to_nobody_test() ->
    ?assertMatch({ok, {_, []}}, repmd_app:init([])).

%% ---- The API of a real daemon

-define(API, "http://127.0.0.1:4370").

%% Two hosts that share a store. The daemon of lab shows the nodes of both.
with_store(Arguments, Tests) ->
    Start = fun() ->
                    Store = lab:redis(),
                    [Store | [lab:repmd(Host, ["--backend", lab:store() | More])
                              || {Host, More} <- [{lab, Arguments}, {alpha, []}]]]
            end,
    with(Start, Tests).

api_lists_the_nodes_of_all_hosts_test_() ->
    with_store([],
               [fun() ->
                        Nodes = [lab:node(lab, bookworm, "one@lab"), lab:node(alpha, bookworm, "two@alpha")],
                        Expected = {ok, ["one@lab", "two@alpha"]},
                        lab:wait_until(fun() -> sorted(repmd_api:names(?API)) =:= Expected end),
                        ?assertEqual(['one@lab', 'two@alpha'],
                                     lists:usort(dials([{api, ?API}], dial, []))),
                        lists:foreach(fun lab:stop/1, Nodes)
                end]).

a_node_of_another_host_connects_by_the_api_test_() ->
    with_store([],
               [fun() ->
                        One = lab:node(lab, bookworm, "one@lab"),
                        ?assertEqual("true", bar([{api, ?API}], "Wait(['one@lab'])")),
                        lab:stop(One)
                end]).

an_api_with_thousands_of_names_is_read_to_its_end_test_() ->
    with(fun() -> [lab:repmd(lab, [])] end,
         [fun() ->
                  Names = [lists:flatten(io_lib:format("n~4..0w", [Number])) || Number <- lists:seq(1, 2500)],
                  Sockets = [lab:register(Name) || Name <- Names],
                  Expected = {ok, [Name ++ "@lab" || Name <- Names]},
                  lab:wait_until(fun() -> sorted(repmd_api:names(?API)) =:= Expected end),
                  lists:foreach(fun gen_tcp:close/1, Sockets)
          end]).

an_api_that_wants_a_token_gets_it_from_its_file_test_() ->
    File = "/tmp/token",
    Token = "0123456789abcdef",
    with(fun() ->
                 ok = file:write_file(File, [Token, "\n"]),
                 [lab:repmd(lab, ["--admin-token-file", lab:outside(File)])]
         end,
         [fun() ->
                  Socket = lab:register("one"),
                  ?assertEqual({error, {status, <<"401">>}}, repmd_api:names(?API)),
                  ?assertEqual({ok, ["one@lab"]}, repmd_api:names(?API, [{token_file, File}])),
                  ?assertEqual(['one@lab'], lists:usort(dials([{api, ?API}, {token_file, File}], dial, []))),
                  ok = file:write_file(File, "another token, which is wrong"),
                  ?assertEqual({error, {status, <<"401">>}}, repmd_api:names(?API, [{token_file, File}])),
                  ?assertMatch({error, enoent}, repmd_api:names(?API, [{token_file, "/nowhere"}])),
                  gen_tcp:close(Socket)
          end]).

%% A shell or a health check is gone at the next look; what is no node's name is never one.
only_names_that_stay_become_atoms_and_not_more_than_allowed_test_() ->
    with(fun() -> [lab:repmd(lab, [])] end,
         [fun() ->
                  Stay = [lab:register(Name) || Name <- ["one", "stays1", "stays2", "stays3", "no good", "x@y"]],
                  Passing = [begin
                                 Socket = lab:register("passes" ++ integer_to_list(Number)),
                                 timer:sleep(20),
                                 gen_tcp:close(Socket),
                                 Number
                             end || Number <- lists:seq(1, 3)],
                  Dialled = lists:usort(dials([{api, ?API}, {max_nodes, 2}], dial, [])),
                  ?assertMatch([_, _, _], Dialled),
                  ?assert(lists:member('one@lab', Dialled)),
                  [?assertError(badarg, list_to_existing_atom("passes" ++ integer_to_list(Number) ++ "@lab"))
                   || Number <- Passing],
                  ?assertError(badarg, list_to_existing_atom("no good@lab")),
                  lists:foreach(fun gen_tcp:close/1, Stay)
          end]).

what_is_no_api_is_an_error_test_() ->
    with(fun() -> [lab:repmd(lab, [])] end,
         [?_assertEqual({error, {status, <<"404">>}}, repmd_api:names(?API ++ "/elsewhere")),
          %% EPMD itself.
          ?_assertEqual({error, not_http}, repmd_api:names("http://127.0.0.1:4369"))] ++
         [?_assertMatch({error, _}, repmd_api:names(Url))
          || Url <- ["https://127.0.0.1", "127.0.0.1:80", "", "http://no.invalid", "http://127.0.0.1:1"]]).

sorted({ok, Names}) -> {ok, lists:sort(Names)};
sorted(Error) -> Error.
