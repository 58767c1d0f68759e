%% What the nodes of the demo do.
-module(ask).

-export([for_nodes/1, for_others/0, look_ups/1]).

%% What the health check shows.
-define(LAST_ANSWERS, "/tmp/answers").

%% Pings other nodes each second for ever, and says what comes of it whenever that changes.
for_nodes(Others) ->
    Nodes = [list_to_atom(Other) || Other <- Others],
    tell(fun() -> [ping(Node) || Node <- Nodes] end).

ping(Other) ->
    Before = what_is_known(Other),
    {Answer, Known} = case net_adm:ping(Other) of
                          pong -> {pong, what_is_known(Other)};
                          pang -> {pang, Before}
                      end,
    io_lib:format("~s asks for ~s: ~s, ~s~n", [node(), Other, Answer, Known]).

%% Has repmd_cluster connect this node to others, and says to which whenever that changes.
for_others() ->
    {ok, _Started} = application:ensure_all_started(repmd),
    tell(fun() -> [io_lib:format("~s is connected to ~p~n", [node(), lists:sort(nodes())])] end).

%% Prints the lines that change.
tell(Lines) ->
    _ = spawn(fun() -> tell(Lines, []) end),
    ok.

tell(Lines, Before) ->
    Now = [lists:flatten(Line) || Line <- Lines()],
    Now =:= Before orelse file:write_file(?LAST_ANSWERS, Now),
    io:put_chars(Now -- Before),
    timer:sleep(1000),
    tell(Lines, Now).

%% As the distribution itself asks.
what_is_known(Other) ->
    [Name, Host] = string:lexemes(atom_to_list(Other), "@"),
    Module = net_kernel:epmd_module(),
    case Module:address_please(Name, Host, inet) of
        {ok, Address, Port, _Version} ->
            io_lib:format("~s knows it at ~s:~b", [Module, inet:ntoa(Address), Port]);
        {ok, Address} ->
            io_lib:format("~s knows its host at ~s", [Module, inet:ntoa(Address)]);
        {error, Reason} ->
            io_lib:format("~s knows no host ~s (~p)", [Module, Host, Reason])
    end.

%% Looks a node up so many times, one each 20 ms, and says how many failed.
look_ups([Node, Times]) ->
    [Name, Host] = string:lexemes(Node, "@"),
    io:format("looking ~s up~n", [Node]),
    Failed = [failed || _ <- lists:seq(1, list_to_integer(Times)),
                        timer:sleep(20) =:= ok,
                        is_unknown(repmd_epmd:address_please(Name, Host, inet))],
    io:format("~b of ~s look-ups failed~n", [length(Failed), Times]),
    halt().

is_unknown({ok, _Address, _Port, _Version}) -> false;
is_unknown(_) -> true.
