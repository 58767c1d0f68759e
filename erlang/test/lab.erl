%% Hosts, daemons and nodes for the suites. Hosts are network namespaces that `run-tests' made, whose names no
%% hosts file has; nodes are programs of a release's root file system.
-module(lab).

-export([main/1]).
-export([releases/0, otp/1, address/1, address6/1]).
-export([with/2, module_flags/1]).
-export([repmd/2, repmd/3, stock_epmd/1, redis/0, store/0, node/3, node/4, register/1, outside/1]).
-export([spawn_node/4, spawn_in_root/3, stop/1, is_alive/1, pid/1]).
-export([evaluate/4, run/3, wait_until/1, registered/2, accepts/2, link/2]).

%% A program that runs until stop/1, or until the process that started it ends.
-opaque program() :: {port(), Pid :: string()}.
-export_type([program/0]).

%% For what happens by itself; far above what it takes, as other tests may keep the machine busy.
-define(WITHIN_MS, 30000).

%% Runs the suites; the emulator ends with 1 unless all pass.
main(Suites) ->
    case eunit:test([list_to_atom(Suite) || Suite <- Suites], [verbose]) of
        ok -> halt(0);
        error -> halt(1)
    end.

%% `Tests' with the programs that `Start' started.
with(Start, Tests) ->
    Stop = fun(Programs) -> lists:foreach(fun stop/1, Programs) end,
    {timeout, 200, {setup, Start, Stop, [{timeout, 100, Test} || Test <- Tests]}}.

%% The flags of a node of `Release' that dials by repmd.
module_flags(Release) -> ["-epmd_module", "repmd_epmd", "-pa", "/mnt/" ++ atom_to_list(Release)].

releases() -> [bullseye, bookworm, trixie, sid].

otp(bullseye) -> 23;
otp(bookworm) -> 25;
otp(trixie) -> 27;
otp(sid) -> 29.

%% As `in-namespaces' gave them out; lab is the host of the suites themselves.
address(lab) -> "10.77.0.254";
address(alpha) -> "10.77.0.1";
address(beta) -> "10.77.0.2";
address(gamma) -> "10.77.0.3".

address6(alpha) -> "fd77::1".

%% A daemon of `Host', ready to answer.
repmd(Host, Arguments) -> repmd(Host, address(Host), Arguments).

repmd(Host, Advertised, Arguments) ->
    Program = spawn_program(Host, [os:getenv("REPMD"), "serve", "--log", "warn", "--host", atom_to_list(Host),
                                   "--advertise", Advertised | Arguments]),
    wait_until(fun() -> is_list(names(Host)) end),
    Program.

stock_epmd(Host) ->
    Program = spawn_in_root(Host, bookworm, ["epmd"]),
    wait_until(fun() -> is_list(names(Host)) end),
    Program.

%% A store that every host reaches, at store/0.
redis() ->
    Store = spawn_in_root(lab, bookworm, ["redis-server", "--save", "", "--protected-mode", "no"]),
    wait_until(fun() -> accepts(lab, 6379) end),
    Store.

store() -> "redis://" ++ address(lab).

%% Registers any name with the daemon of lab, as a node does, for as long as the socket is open.
register(Name) ->
    Alive = unicode:characters_to_binary(Name),
    Request = <<$x, 4711:16, 77, 0, 6:16, 5:16, (byte_size(Alive)):16, Alive/binary, 0:16>>,
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, 4369, [binary, {active, false}]),
    ok = gen_tcp:send(Socket, [<<(byte_size(Request)):16>>, Request]),
    {ok, <<118, 0, _Creation:32>>} = gen_tcp:recv(Socket, 6, ?WITHIN_MS),
    Socket.

%% The path of a file of these suites for programs outside of their root.
outside(File) -> filename:join(os:getenv("CACHE"), "bookworm") ++ File.

node(Host, Release, Name) -> node(Host, Release, Name, []).

%% A node that is registered with its host's daemon.
node(Host, Release, Name, Arguments) ->
    Program = spawn_node(Host, Release, Name, Arguments),
    [Alive | _] = string:split(Name, "@"),
    wait_until(fun() -> registered(Host, Alive) end),
    Program.

spawn_node(Host, Release, Name, Arguments) ->
    spawn_in_root(Host, Release, erl(Name, Arguments)).

spawn_in_root(Host, Release, Words) -> spawn_program(Host, in_root(Release, Words)).

%% What a node prints that starts, evaluates `Expression' and ends. Without a name it is no node yet.
evaluate(Host, {Release, Name}, Arguments, Expression) ->
    Printing = ["io:format(\"~0p\", [begin ", Expression, " end]), halt()."],
    Quiet = ["-kernel", "logger_level", "critical"],
    run(Host, Release, erl(Name, Arguments ++ Quiet ++ ["-eval", lists:flatten(Printing)])).

erl(Name, Arguments) ->
    Named = case {Name, lists:member($., Name)} of
                {"", _} -> [];
                {_, true} -> ["-name", Name];
                {_, false} -> ["-sname", Name]
            end,
    ["erl", "-noinput", "-start_epmd", "false", "-setcookie", "lab"] ++ Named ++ Arguments.

in_root(Release, Words) ->
    ["chroot", filename:join(os:getenv("CACHE"), Release), "env", "HOME=/tmp" | Words].

%% Runs a program of a release's root to its end, on `Host'; gives its output. It must end well.
run(Host, Release, Words) -> output(open(on(Host, in_root(Release, Words)), []), []).

output(Port, Text) ->
    receive
        {Port, {data, More}} -> output(Port, [Text, More]);
        {Port, {exit_status, 0}} -> lists:flatten(Text);
        {Port, {exit_status, Status}} -> error({exit_status, Status, lists:flatten(Text)})
    after ?WITHIN_MS -> error({no_end, lists:flatten(Text)})
    end.

spawn_program(Host, Words) ->
    %% Each word of the way to the program execs the next, so they are one process.
    Script = "\"$@\" </dev/null & echo $!; cat >/dev/null; kill -9 $!; wait",
    Port = open(["sh", "-c", Script, "sh" | on(Host, Words)], [{line, 1000}]),
    receive
        {Port, {data, {eol, Pid}}} -> {Port, Pid}
    end.

stop({Port, _Pid} = Program) ->
    catch port_close(Port),
    wait_until(fun() -> not is_alive(Program) end).

is_alive({_Port, Pid}) -> filelib:is_file("/media/proc/" ++ Pid).

pid({_Port, Pid}) -> Pid.

on(lab, Words) -> ["chroot", "/media" | Words];
on(Host, Words) -> ["chroot", "/media", "ip", "netns", "exec", atom_to_list(Host) | Words].

open([Program | Arguments], Options) ->
    open_port({spawn_executable, os:find_executable(Program)},
              [{args, Arguments}, exit_status, stderr_to_stdout | Options]).

registered(Host, Alive) ->
    Names = names(Host),
    is_list(Names) andalso lists:member(Alive, Names).

%% What the daemon of `Host' lists.
names(Host) ->
    {ok, Address} = inet:parse_address(address(Host)),
    case erl_epmd:names(Address) of
        {ok, Names} -> [Name || {Name, _Port} <- Names];
        {error, Reason} -> Reason
    end.

%% Whether something listens there.
accepts(Host, Port) ->
    case gen_tcp:connect(address(Host), Port, []) of
        {ok, Socket} -> gen_tcp:close(Socket), true;
        {error, _} -> false
    end.

%% Plugs a host in or out: `up' or `down'.
link(Host, State) ->
    "" = output(open(on(lab, ["ip", "link", "set", atom_to_list(Host), atom_to_list(State)]), []), []),
    ok.

wait_until(Condition) -> wait_until(Condition, erlang:monotonic_time(millisecond) + ?WITHIN_MS).

wait_until(Condition, Deadline) ->
    case {Condition(), erlang:monotonic_time(millisecond) < Deadline} of
        {true, _} -> ok;
        {false, true} -> timer:sleep(10), wait_until(Condition, Deadline);
        {false, false} -> error(too_late)
    end.
