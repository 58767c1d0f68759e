# So that Mix builds the application by itself; without this file it would need rebar3.
defmodule Repmd.MixProject do
  use Mix.Project

  # What rebar3 reads is said once, for both.
  @app_src Path.join(__DIR__, "src/repmd.app.src")

  def project do
    [
      app: :repmd,
      version: to_string(app()[:vsn]),
      description: to_string(app()[:description]),
      package: package(),
      language: :erlang,
      start_permanent: false,
      deps: []
    ]
  end

  # For hex.pm, with either tool; no example, test or build goes into it.
  defp package do
    [
      licenses: Enum.map(app()[:licenses], &to_string/1),
      links: Map.new(app()[:links], fn {name, url} -> {to_string(name), to_string(url)} end),
      files: ~w(src mix.exs rebar.config README.md CHANGELOG.md LICENSE)
    ]
  end

  def application, do: Keyword.take(app(), [:mod, :registered, :env])

  defp app do
    {:ok, [{:application, :repmd, app}]} = :file.consult(@app_src)
    app
  end
end
