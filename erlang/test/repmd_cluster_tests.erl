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

%% ---- The API

api_test_() ->
    Node = <<"{\"nodes\": [{\"name\":\"foo@hosta\",\"host\":{\"name\":\"hosta\"},"
             "\"x\":\"\\\"name\\\":\\\"a@b\\\"\"},\n{\"port\":1, \"name\" : \"bar@hostb.example\"}]}">>,
    Ok = <<"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n">>,
    [?_assertEqual(Expected, answered(Reply))
     || {Expected, Reply} <- [{{ok, ["foo@hosta", "bar@hostb.example"]}, <<Ok/binary, Node/binary>>},
                              {{ok, []}, <<Ok/binary, "{\"nodes\":[]}">>},
                              {{error, {status, <<"503">>}}, <<"HTTP/1.0 503 Unavailable\r\n\r\n{}">>},
                              {{error, not_http}, <<"w">>},
                              {{error, not_http}, <<>>}]] ++
    [?_assertMatch({error, _}, repmd_api:names(Url))
     || Url <- ["https://127.0.0.1", "127.0.0.1:80", "", "http://no.invalid", "http://127.0.0.1:1"]].

%% What repmd_api makes of an API that answers with `Reply'.
answered(Reply) ->
    {ok, Listener} = gen_tcp:listen(0, [binary, {ip, {127, 0, 0, 1}}, {active, false}]),
    {ok, Port} = inet:port(Listener),
    spawn_link(fun() ->
                       {ok, Socket} = gen_tcp:accept(Listener),
                       {ok, <<"GET /api/v1/nodes HTTP/1.0\r\n", _/binary>>} = gen_tcp:recv(Socket, 0),
                       ok = gen_tcp:send(Socket, Reply),
                       gen_tcp:close(Socket)
               end),
    repmd_api:names("http://127.0.0.1:" ++ integer_to_list(Port)).
