%% The names of the cluster's nodes, from the HTTP API of a repmd daemon.
-module(repmd_api).

-export([names/1, names/2]).
-export_type([option/0]).

-define(WITHIN_MS, 5000).
%% Names of one answer, and answers of one look: what comes from outside must end.
-define(PAGE, 1000).
-define(PAGES_MAX, 100).
-define(PAGE_BYTES_MAX, 4 * 1024 * 1024).

-type option() :: {token_file, file:name_all()}.  % Whose content the daemon was given as its token, too.

-spec names(Url :: string()) -> {ok, [string()]} | {error, term()}.
names(Url) -> names(Url, []).

%% The node names that `Url' lists: that of the daemon's API, such as "http://127.0.0.1:4370".
-spec names(Url :: string(), [option()]) -> {ok, [string()]} | {error, term()}.
names(Url, Options) ->
    try
        #{scheme := "http", host := Host, path := Path} = Parts = uri_string:parse(Url),
        {ok, Address} = address(Host),
        Ask = fun(Target) ->
                      %% Of version 1.0, as its replies end with the connection and are never in chunks.
                      Request = ["GET ", string:trim(Path, trailing, "/"), Target, " HTTP/1.0\r\n",
                                 "Host: ", host_header(Host), "\r\n", authorization(Options), "\r\n"],
                      Port = maps:get(port, Parts, 80),
                      repmd_epmd:exchange(Address, Port, Request, ?WITHIN_MS, ?PAGE_BYTES_MAX)
              end,
        First = "/api/v1/nodes?format=names&limit=" ++ integer_to_list(?PAGE),
        pages(Ask, First, ?PAGES_MAX, [])
    catch
        throw:{error, Reason} -> {error, Reason};
        error:{badmatch, {error, Reason}} -> {error, Reason};
        error:Reason -> {error, Reason}
    end.

pages(_Ask, _Target, 0, _Names) -> {error, endless};
pages(Ask, Target, Left, Names) ->
    {Head, Body} = answer(Ask(Target)),
    More = [Name || Line <- binary:split(Body, <<"\n">>, [global, trim_all]),
                    Name <- [unicode:characters_to_list(Line)], is_list(Name)],
    case next(Head) of
        none -> {ok, lists:append(lists:reverse([More | Names]))};
        Next -> pages(Ask, Next, Left - 1, [More | Names])
    end.

answer(Reply) ->
    case binary:split(Reply, <<"\r\n\r\n">>) of
        [<<"HTTP/1.", _, " 200 ", _/binary>> = Head, Body] -> {Head, Body};
        [<<"HTTP/1.", _, " ", Status:3/binary, _/binary>> | _] -> throw({error, {status, Status}});
        _ -> throw({error, not_http})
    end.

%% The target of the header `Link: <TARGET>; rel="next"', which a page has that is not the last.
next(Head) ->
    Pattern = "\r\nlink: <(/[^>\\s]+)>; rel=\"next\"",
    case re:run(Head, Pattern, [caseless, {capture, [1], list}]) of
        {match, [Target]} -> Target;
        nomatch -> none
    end.

%% Read at each look, so that a token may be replaced.
authorization(Options) ->
    case proplists:get_value(token_file, Options) of
        undefined -> "";
        File ->
            {ok, Token} = file:read_file(File),
            ["Authorization: Bearer ", string:trim(Token), "\r\n"]
    end.

%% The brackets of an IPv6 address are no part of it.
host_header(Host) ->
    case lists:member($:, Host) of
        true -> ["[", Host, "]"];
        false -> Host
    end.

address(Host) ->
    case inet:parse_strict_address(Host) of
        {ok, Address} -> {ok, Address};
        {error, einval} -> inet:getaddr(Host, inet)
    end.
