%% Elixir 1.14 on OTP 25, and 1.18 on OTP 27, with the project in elixir/, which has this application as a
%% path dependency.
-module(repmd_elixir_tests).

-include_lib("eunit/include/eunit.hrl").

elixir_test_() -> [elixir(Release) || Release <- [bookworm, trixie]].

elixir(Release) ->
    Copy = lists:concat(["/mnt/elixir-", Release]),
    Start = fun() ->
                    "" = os:cmd("cp -r /mnt/erlang " ++ Copy),
                    [lab:repmd(alpha, []), lab:node(alpha, bookworm, "foo@alpha")]
            end,
    %% What `Command' prints in the project's folder, in a shell.
    Sh = fun(Command) -> lab:run(alpha, Release, sh(Copy, Command)) end,
    Has = fun(Part, Command) -> ?_assertEqual(Part, found(Part, Sh(Command))) end,
    Flags = "-epmd_module repmd_epmd -pa _build/dev/lib/repmd/ebin",
    {setup, Start, fun(Programs) -> lists:foreach(fun lab:stop/1, Programs) end,
     [{timeout, 100, {lists:concat([Release, ": ", Why]), Test}}
      || {Why, Test} <-
             [{"it is a path dependency", Has("Generated repmd app", "mix compile")},
              {"elixir", Has("pong", "elixir --sname bar@alpha --cookie lab --erl '" ++ Flags ++ "' "
                                     "-e 'IO.write(Node.ping(:foo@alpha))'")},
              {"iex", Has(":pong", "echo 'Node.ping(:foo@alpha)' | "
                                   "iex --sname bar@alpha --cookie lab --erl '" ++ Flags ++ "'")},
              {"iex -S mix", Has(":pong", "echo 'Node.ping(:foo@alpha)' | ERL_FLAGS='" ++ Flags ++ "' "
                                          "iex --sname bar@alpha --cookie lab -S mix")},
              {"mix test with a peer", Has("1 test, 0 failures", "ERL_FLAGS='" ++ Flags ++ "' "
                                           "elixir --sname test@alpha -S mix test")},
              {"a release is built", Has("Release created", "MIX_ENV=prod mix release")},
              {"a release connects", fun() -> release_connects(Release, Copy, Sh) end}]]}.

sh(Copy, Command) ->
    ["env", "LC_ALL=C.UTF-8", "RELEASE_COOKIE=lab", "RELEASE_NODE=demo@alpha",
     "sh", "-c", "cd " ++ Copy ++ "/test/elixir && " ++ Command].

release_connects(Release, Copy, Sh) ->
    Demo = "_build/prod/rel/demo/bin/demo ",
    Program = lab:spawn_in_root(alpha, Release, sh(Copy, "exec " ++ Demo ++ "start")),
    lab:wait_until(fun() -> lab:registered(alpha, "demo") end),
    ?assertEqual("pong", Sh(Demo ++ "rpc 'IO.write(Node.ping(:foo@alpha))'")),
    lab:stop(Program).

%% `Part', if `Text' has it; else all of it.
found(Part, Text) ->
    case string:find(Text, Part) of
        nomatch -> Text;
        _ -> Part
    end.
