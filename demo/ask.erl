%% What the nodes of the demo do.
-module(ask).

-export([for_node/1, look_ups/1]).

%% What the health check shows.
-define(LAST_ANSWER, "/tmp/answer").

%% Pings another node each second for ever, and says what comes of it whenever that changes.
for_node([Other]) ->
    _ = spawn(fun() -> ping_on(list_to_atom(Other), none) end),
    ok.

ping_on(Other, Before) ->
    Known = what_is_known(Other),
    Answer = net_adm:ping(Other),
    case Answer of
        Before -> ok;
        pang -> tell(Other, pang, Known);
        pong -> tell(Other, pong, what_is_known(Other))
    end,
    timer:sleep(1000),
    ping_on(Other, Answer).

tell(Other, Answer, Known) ->
    Line = io_lib:format("~s asks for ~s: ~s, ~s~n", [node(), Other, Answer, Known]),
    ok = file:write_file(?LAST_ANSWER, Line),
    io:put_chars(Line).

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
