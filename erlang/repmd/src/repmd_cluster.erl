%% Connects this node to the others of its cluster, and does so again whenever it sees one that it is not
%% connected to. It never disconnects: that a daemon or a store is away says nothing about a node.
%%
%% Names come from NAMES of each host that is configured or known (a known host is that of any node seen so
%% far, so this node's own too), and from a daemon's HTTP API, if one is configured. Neither says what stands
%% after the @ in a node's name: it is the host as configured here, or as the daemon was told by `--host'.
%%
%% It has the shape of a libcluster strategy: start_link/1 takes a list with one map that holds `config', and
%% may hold `connect' and `list_nodes'.
-module(repmd_cluster).

-behaviour(gen_server).

-export([start_link/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-include_lib("kernel/include/logger.hrl").

%% How soon a name that is new is looked for again.
-define(CONFIRM_MS, 500).

-type option() :: {hosts, [string() | binary() | atom()]}  % Ask these for the names of their nodes.
                | {api, string() | binary()}               % And the daemon's API at this URL.
                | {token_file, string() | binary()}        % With the token in this file.
                | {max_nodes, pos_integer()}               % New names that may become atoms; 1000.
                | {match, string() | binary()}             % A regular expression: to these nodes only.
                | {interval, pos_integer()}.               % Milliseconds between two looks; 5000.

-type source() :: {host, string()} | {api, string()}.
-type job() :: {ask, source()} | {dial, node()}.

-record(state, {hosts = [] :: [string()],
                api = [] :: [source()],
                api_options = [] :: [repmd_api:option()],
                match :: term(),  % as re:compile/2 gives it
                interval = 5000 :: pos_integer(),
                connect :: call(),
                list_nodes :: call(),
                %% What is under way. Both kinds of job may wait for minutes, so each is a process; none is
                %% started while one like it still runs.
                jobs = #{} :: #{pid() => job()},
                %% The names that each source had at its last look, and that this emulator does not know yet.
                met = #{} :: #{source() => [string()]},
                %% How many of those became atoms, and how many may.
                made = 0 :: non_neg_integer(),
                max_nodes = 1000 :: pos_integer(),
                %% Sources that did not answer last, so that the log says so once.
                silent = [] :: [source()]}).

-type call() :: {module(), atom(), [term()]}.

-spec start_link([#{config := [option()], connect => call(), list_nodes => call(), _ => _}]) ->
          {ok, pid()} | {error, {bad_option, term()}}.
start_link([#{config := Config} = Topology]) ->
    Connect = maps:get(connect, Topology, {net_kernel, connect_node, []}),
    ListNodes = maps:get(list_nodes, Topology, {erlang, nodes, [connected]}),
    Empty = #state{connect = Connect, list_nodes = ListNodes},
    try lists:foldl(fun option/2, Empty, [{match, ""} | Config]) of
        State -> gen_server:start_link(?MODULE, State, [])
    catch
        throw:Reason -> {error, Reason}
    end.

init(State) ->
    self() ! look,
    {ok, State}.

option({hosts, Hosts}, State) when is_list(Hosts) -> State#state{hosts = lists:map(fun text/1, Hosts)};
option({api, Url}, State) -> State#state{api = [{api, text(Url)}]};
option({token_file, File}, State) -> State#state{api_options = [{token_file, text(File)}]};
option({max_nodes, Most}, State) when is_integer(Most), 0 < Most -> State#state{max_nodes = Most};
option({interval, Ms}, State) when is_integer(Ms), 0 < Ms -> State#state{interval = Ms};
option({match, Pattern} = Option, State) ->
    case re:compile(text(Pattern), [unicode]) of
        {ok, Match} -> State#state{match = Match};
        {error, _} -> throw({bad_option, Option})
    end;
option(Option, _State) -> throw({bad_option, Option}).

text(Text) when is_binary(Text); is_list(Text) -> unicode:characters_to_list(Text);
text(Text) when is_atom(Text) -> atom_to_list(Text).

handle_call(_Request, _From, State) -> {noreply, State}.

handle_cast(_Request, State) -> {noreply, State}.

handle_info(look, #state{interval = Interval} = State) ->
    erlang:send_after(Interval, self(), look),
    {noreply, start([{ask, Source} || Source <- sources(State)], State)};
handle_info({ask_again, Source}, State) ->
    {noreply, start([{ask, Source}], State)};
handle_info({names, Source, {ok, Names}}, #state{silent = Silent} = State) ->
    {Nodes, Next} = wanted(Source, Names, State),
    Missing = Nodes -- [node() | call(State#state.list_nodes, [])],
    {noreply, start([{dial, Node} || Node <- Missing], Next#state{silent = Silent -- [Source]})};
handle_info({names, Source, {error, Reason}}, #state{silent = Silent} = State) ->
    lists:member(Source, Silent) orelse ?LOG_WARNING("repmd: no names from ~tp: ~tp", [Source, Reason]),
    {noreply, State#state{silent = lists:usort([Source | Silent])}};
handle_info({'DOWN', _Monitor, process, Pid, _Reason}, #state{jobs = Jobs} = State) ->
    {noreply, State#state{jobs = maps:remove(Pid, Jobs)}};
handle_info(_Message, State) -> {noreply, State}.

sources(#state{hosts = Hosts, api = Api}) ->
    Known = [Host || Node <- [node() | nodes(known)], {_, Host} <- [split(atom_to_list(Node))]],
    Api ++ [{host, Host} || Host <- lists:usort(Hosts ++ Known), Host =/= "nohost"].

split(Node) ->
    case string:split(Node, "@") of
        [Name, Host] -> {Name, Host};
        [_] -> none
    end.

%% Names come from outside, and atoms stay for ever. So one is made only of a name that matches and that its source
%% has in two looks in a row, which the name of a shell or a health check has not; and of so many at most.
wanted(Source, Names, #state{match = Match, met = Met} = State) ->
    Matching = [Name || Name <- lists:usort(Names), is_node_name(Name),
                        re:run(Name, Match, [{capture, none}]) =:= match],
    Before = maps:get(Source, Met, []),
    {Nodes, New, Next} = lists:foldl(fun(Name, Known) -> known(Name, Before, Known) end,
                                     {[], [], State}, Matching),
    %% No node waits for a whole interval to be seen twice.
    New =:= [] orelse erlang:send_after(min(State#state.interval, ?CONFIRM_MS), self(), {ask_again, Source}),
    {Nodes, Next#state{met = Met#{Source => New}}}.

known(Name, Before, {Nodes, New, #state{made = Made, max_nodes = Most} = State}) ->
    try
        {[list_to_existing_atom(Name) | Nodes], New, State}
    catch
        error:badarg when Made < Most ->
            case lists:member(Name, Before) of
                true -> {[list_to_atom(Name) | Nodes], New, said(State#state{made = Made + 1})};
                false -> {Nodes, [Name | New], State}
            end;
        error:badarg -> {Nodes, New, State}
    end.

said(#state{made = Most, max_nodes = Most} = State) ->
    ?LOG_WARNING("repmd: ~tp names have become nodes; no more will, as atoms stay for ever: see max_nodes", [Most]),
    State;
said(State) -> State.

%% Anything may be registered. A node has one @, and nothing that a shell or a log would obey.
is_node_name(Name) ->
    length(Name) =< 255 andalso lists:all(fun(Char) -> $\s < Char andalso Char =/= 127 end, Name)
        andalso case string:split(Name, "@", all) of
                    [[_ | _], [_ | _]] -> true;
                    _ -> false
                end.

start(Jobs, #state{jobs = Running} = State) ->
    New = Jobs -- maps:values(Running),
    Me = self(),
    %% Linked, so that they end with this process; so they must not crash.
    Started = [{element(1, spawn_opt(fun() -> run(Job, Me, State) end, [link, monitor])), Job} || Job <- New],
    State#state{jobs = maps:merge(Running, maps:from_list(Started))}.

run({ask, Source}, Me, State) ->
    Me ! {names, Source, ask(Source, State)};
run({dial, Node}, _Me, #state{connect = Connect}) ->
    try call(Connect, [Node]) of
        true -> ?LOG_INFO("repmd: connected to ~tp", [Node]);
        %% It may not be up yet, or no longer; the next look tells.
        _ -> ok
    catch
        Class:Reason -> ?LOG_WARNING("repmd: cannot connect to ~tp: ~tp:~tp", [Node, Class, Reason])
    end.

ask({api, Url}, #state{api_options = Options}) -> repmd_api:names(Url, Options);
ask({host, Host}, _State) ->
    try repmd_epmd:names(Host) of
        {ok, Names} -> {ok, [Name ++ "@" ++ Host || {Name, _Port} <- Names]};
        {error, Reason} -> {error, Reason}
    catch
        Class:Reason -> {error, {Class, Reason}}
    end.

call({Module, Function, Arguments}, More) -> apply(Module, Function, Arguments ++ More).
