%% The names of the cluster's nodes, from the HTTP API of a repmd daemon.
-module(repmd_api).

-export([names/1]).

-define(WITHIN_MS, 5000).

%% The node names that `Url' lists: that of the daemon's API, such as "http://127.0.0.1:4370".
-spec names(Url :: string()) -> {ok, [string()]} | {error, term()}.
names(Url) ->
    try
        #{scheme := "http", host := Host, path := Path} = Parts = uri_string:parse(Url),
        {ok, Address} = address(Host),
        %% Of version 1.0, as its replies end with the connection and are never in chunks.
        Request = ["GET ", string:trim(Path, trailing, "/"), "/api/v1/nodes HTTP/1.0\r\n"
                   "Host: ", Host, "\r\nAccept: application/json\r\n\r\n"],
        Reply = repmd_epmd:exchange(Address, maps:get(port, Parts, 80), Request, ?WITHIN_MS),
        case string:split(Reply, "\r\n\r\n") of
            [<<"HTTP/1.", _, " 200 ", _/binary>>, Body] -> {ok, node_names(Body)};
            [<<"HTTP/1.", _, " ", Status:3/binary, _/binary>> | _] -> {error, {status, Status}};
            _ -> {error, not_http}
        end
    catch
        error:{badmatch, {error, Reason}} -> {error, Reason};
        error:Reason -> {error, Reason}
    end.

address(Host) ->
    case inet:parse_strict_address(Host) of
        {ok, Address} -> {ok, Address};
        {error, einval} -> inet:getaddr(Host, inet)
    end.

%% {"nodes": [{"name": "foo@hosta", ...}, ...]}, read without a parser, which OTP has only since 27: in JSON,
%% `"name":' is the key "name" wherever it stands, since a quote within a string has a backslash before it.
%% No node name needs one, and nothing but a node's name has an @.
node_names(Json) ->
    case re:run(Json, "\"name\"\\s*:\\s*\"([^\"\\\\@]+@[^\"\\\\@]+)\"", [global, {capture, [1], list}]) of
        {match, Names} -> lists:append(Names);
        nomatch -> []
    end.
