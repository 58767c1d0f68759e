%% The application: nothing but repmd_cluster, and that only where the environment has `cluster'.
-module(repmd_app).

-behaviour(application).
-behaviour(supervisor).

-export([start/2, stop/1, init/1]).

-spec start(application:start_type(), term()) -> {ok, pid()} | {error, term()}.
start(_Type, _Arguments) -> supervisor:start_link(?MODULE, []).

-spec stop(term()) -> ok.
stop(_State) -> ok.

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    Children = [#{id => repmd_cluster, start => {repmd_cluster, start_link, [[#{config => Options}]]}}
                || {ok, Options} <- [application:get_env(repmd, cluster)]],
    {ok, {#{}, Children}}.
