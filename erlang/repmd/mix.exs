# So that Mix builds the application by itself; without this file it would need rebar3.
defmodule Repmd.MixProject do
  use Mix.Project

  # What rebar3 reads is said once, for both.
  @app_src Path.join(__DIR__, "src/repmd.app.src")

  def project do
    [app: :repmd, version: to_string(app()[:vsn]), language: :erlang, start_permanent: false, deps: []]
  end

  def application, do: Keyword.take(app(), [:mod, :registered, :env])

  defp app do
    {:ok, [{:application, :repmd, app}]} = :file.consult(@app_src)
    app
  end
end
