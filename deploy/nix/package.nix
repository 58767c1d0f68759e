# The program, its pages and its completions.
{ lib, rustPlatform, installShellFiles }:

let
  manifest = lib.importTOML ../../Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = "repmd";
  inherit (manifest.workspace.package) version;

  src = lib.cleanSource ../..;
  cargoLock.lockFile = ../../Cargo.lock;
  cargoBuildFlags = [ "--package" "repmd" "--bin" "repmd" ];
  # They need root, and Erlang in root file systems: ./test.
  doCheck = false;

  nativeBuildInputs = [ installShellFiles ];
  postInstall = ''
    "$out/bin/repmd" man >repmd.1
    for command in $("$out/bin/repmd" man | sed -n 's/^repmd\\-\(.*\)(1)$/\1/p' | tr -d '\\'); do
      "$out/bin/repmd" man "$command" >"repmd-$command.1"
    done
    installManPage repmd*.1
    for shell in bash zsh fish; do
      "$out/bin/repmd" completions "$shell" >"repmd.$shell"
    done
    installShellCompletion repmd.bash repmd.zsh repmd.fish
  '';

  meta = {
    inherit (manifest.package) description;
    license = lib.licenses.asl20;
    platforms = lib.platforms.linux;
    mainProgram = "repmd";
  };
}
