%% Finds nodes by the daemon of this host, for `-epmd_module repmd_epmd`.
%%
%% A node asks the daemon at the other node's address, so it must have that address from DNS first. This
%% module asks the daemon of its own host for the full node name, which repmd answers with address and port:
%%
%%     <<Length:16, $z, "foo@hosta">>    an ordinary PORT_PLEASE2_REQ
%%     <<$w, 0, Port:16, ...>>           an ordinary PORT2_RESP with "repmd/1 addr=IP[,IP...] host=H" as Extra
%%
%% "@hosta" asks for that host's daemon. A stock daemon has no such name; then, and whenever no answer comes,
%% everything is as without this module.
%%
%% This file stands by itself, so that its beam can be put anywhere. It is called within net_kernel: a crash
%% would end the distribution, and a wait delays all other connections.
-module(repmd_epmd).

%% What the distribution of OTP 23 to 29 calls; the optional ones too, so that tools may.
-export([start_link/0, register_node/2, register_node/3, listen_port_please/2]).
-export([address_please/3, port_please/2, port_please/3, names/0, names/1]).
-export([exchange/5]).

-define(MAGIC, "repmd/1").
-define(DIST_LOW, 5).
-define(DIST_HIGH, 6).
%% A connection asks for its address twice; both together, and names/1 with its two questions, are to take
%% no longer than 1.5 s.
-define(WITHIN_MS, 700).
%% What an answer may have: whoever answers must not fill this node's memory.
-define(FOUND_BYTES_MAX, 4096).
-define(NAMES_BYTES_MAX, 16 * 1024 * 1024).

-type address() :: inet:ip_address().
-type family() :: inet | inet6.

%% Registration is the stock one.

-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() -> erl_epmd:start_link().

-spec register_node(atom() | string(), inet:port_number()) -> {ok, Creation :: pos_integer()} | {error, term()}.
register_node(Name, Port) -> erl_epmd:register_node(Name, Port).

%% `Driver' is inet_tcp or inet6_tcp up to OTP 25, and inet or inet6 since.
-spec register_node(atom() | string(), inet:port_number(), inet_tcp | inet6_tcp | inet | inet6) ->
          {ok, Creation :: pos_integer()} | {error, term()}.
register_node(Name, Port, Driver) -> erl_epmd:register_node(Name, Port, Driver).

-spec listen_port_please(atom() | string(), atom() | string() | address()) -> {ok, inet:port_number()}.
listen_port_please(Name, Host) -> erl_epmd:listen_port_please(Name, Host).

%% With port and version in the answer, the distribution dials at once. With an address alone, it calls
%% port_please/2 next.
-spec address_please(string(), string() | address(), family()) ->
          {ok, address(), inet:port_number(), Version :: pos_integer()} | {ok, address()} | {error, term()}.
address_please(Name, Host, Family) ->
    case find(Name, Host, Family) of
        {_, _, _} = Found -> erlang:insert_element(1, Found, ok);
        none -> erl_epmd:address_please(Name, Host, Family)
    end.

-spec port_please(atom() | string(), atom() | string() | address()) ->
          {port, inet:port_number(), Version :: pos_integer()} | noport | closed | {error, term()}.
port_please(Name, Host) -> port_please(Name, Host, infinity).

-spec port_please(atom() | string(), atom() | string() | address(), timeout()) ->
          {port, inet:port_number(), Version :: pos_integer()} | noport | closed | {error, term()}.
port_please(Name, Host, Timeout) ->
    case find(Name, Host, family()) of
        {_, Port, Version} -> {port, Port, Version};
        none -> erl_epmd:port_please(Name, Host, Timeout)
    end.

-spec names() -> {ok, [{Name :: string(), inet:port_number()}]} | {error, term()}.
names() -> erl_epmd:names().

%% The names at a host, for net_adm:names/1 and world/0; DNS need not know the host.
-spec names(atom() | string() | address()) ->
          {ok, [{Name :: string(), inet:port_number()}]} | {error, term()}.
names(Host) ->
    case find("", Host, family()) of
        {Address, Port, _} -> names_at(Address, Port);
        none -> erl_epmd:names(Host)
    end.

%% erl_epmd waits for as long as the kernel tries to connect.
names_at(Address, Port) ->
    try
        <<_Port:32, Lines/binary>> = exchange(Address, Port, <<1:16, $n>>, ?WITHIN_MS, ?NAMES_BYTES_MAX),
        {ok, [{Name, list_to_integer(At)}
              || Line <- string:lexemes(unicode:characters_to_list(Lines), "\n"),
                 ["name", Name, "at", "port", At] <- [string:lexemes(Line, " ")]]}
    catch
        _:_ -> {error, address}
    end.

%% What the daemon of this host says of a full node name. `none' has many reasons, and one cure: do as
%% without repmd.
-spec find(atom() | string(), atom() | string() | address(), family()) ->
          {address(), inet:port_number(), Version :: pos_integer()} | none.
find(Name, Host, Family) ->
    try
        FullName = unicode:characters_to_binary([text(Name), $@, text(Host)]),
        Request = <<(byte_size(FullName) + 1):16, $z, FullName/binary>>,
        <<$w, 0, Port:16, _Type, _Protocol, High:16, Low:16,
          NameLen:16, _:NameLen/binary, ExtraLen:16, Extra:ExtraLen/binary>> =
            exchange(loopback(Family), epmd_port(), Request, ?WITHIN_MS, ?FOUND_BYTES_MAX),
        %% Another program's node may have an Extra of its own.
        [?MAGIC | Words] = string:lexemes(binary_to_list(Extra), " "),
        [Address | _] = [Address || "addr=" ++ Addresses <- Words,
                                    Text <- string:lexemes(Addresses, ","),
                                    {ok, Address} <- [parse_address(Text, Family)]],
        Version = min(High, ?DIST_HIGH),
        true = ?DIST_LOW =< Version andalso Low =< Version,
        {Address, Port, Version}
    catch
        _:_ -> none
    end.

%% Sends `Request' and gives all that comes back until the other side closes, `Most' bytes of it.
-spec exchange(address(), inet:port_number(), iodata(), Milliseconds :: pos_integer(), Most :: pos_integer()) ->
          binary().
exchange(Address, Port, Request, Within, Most) ->
    Until = now_ms() + Within,
    Options = [binary, family_of(Address), {active, false}, {nodelay, true}],
    {ok, Socket} = gen_tcp:connect(Address, Port, Options, Within),
    try
        ok = gen_tcp:send(Socket, Request),
        receive_all(Socket, Until, Most, [])
    after
        gen_tcp:close(Socket)
    end.

receive_all(Socket, Until, Left, Received) ->
    case gen_tcp:recv(Socket, 0, max(0, Until - now_ms())) of
        {ok, Bytes} when byte_size(Bytes) =< Left ->
            receive_all(Socket, Until, Left - byte_size(Bytes), [Received, Bytes]);
        {error, closed} -> iolist_to_binary(Received)
    end.

now_ms() -> erlang:monotonic_time(millisecond).

parse_address(Text, inet) -> inet:parse_ipv4strict_address(Text);
parse_address(Text, inet6) -> inet:parse_ipv6strict_address(Text).

%% Where nodes of this family register.
loopback(inet) -> {127, 0, 0, 1};
loopback(inet6) -> {0, 0, 0, 0, 0, 0, 0, 1}.

family_of(Address) when tuple_size(Address) =:= 4 -> inet;
family_of(Address) when tuple_size(Address) =:= 8 -> inet6.

%% The family of this node, where the caller does not say: that of its distribution protocol.
family() ->
    case init:get_argument(proto_dist) of
        {ok, [["inet6" ++ _ | _] | _]} -> inet6;
        _ -> inet
    end.

%% `erl' makes this argument of the variable ERL_EPMD_PORT.
epmd_port() ->
    case init:get_argument(epmd_port) of
        {ok, [[Port | _] | _]} -> list_to_integer(Port);
        error -> 4369
    end.

text(Atom) when is_atom(Atom) -> atom_to_list(Atom);
text(Text) when is_list(Text) -> Text.
