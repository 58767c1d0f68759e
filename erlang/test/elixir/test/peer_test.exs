defmodule PeerTest do
  use ExUnit.Case

  # The peer connects to this node by itself, under names that DNS does not know.
  test "a peer node is started and reached under the name of a host that nothing resolves" do
    args = Enum.flat_map(:code.get_path(), &[~c"-pa", &1]) ++ [~c"-epmd_module", ~c"repmd_epmd"]
    {:ok, peer, node} = :peer.start_link(%{name: :peer, host: ~c"alpha", args: args})
    assert node == :peer@alpha
    assert Node.list() == [:peer@alpha]
    assert :erpc.call(node, Node, :ping, [node()]) == :pong
    assert :erpc.call(node, :net_kernel, :epmd_module, []) == :repmd_epmd
    :peer.stop(peer)
  end
end
