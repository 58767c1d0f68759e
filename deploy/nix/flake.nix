{
  description = "One EPMD (Erlang Port Mapper Daemon) for the whole cluster";

  # Not pinned: any that has the Rust of Cargo.toml's `rust-version` does.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }: {
    packages = nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: rec {
      repmd = nixpkgs.legacyPackages.${system}.callPackage ./package.nix { };
      default = repmd;
    });
  };
}
