// What this node has: cores, memory, disk, GPUs, addresses, CPU features. Any thread.
#pragma once
#include <cstdint>
#include <string>

#include "bp/v1/node.pb.h"

namespace bp::node {

/// `cores`, `memory_bytes`: the share that the provider gave this node; 0: all that the host has.
v1::NodeInventory take_inventory(uint32_t cores, uint64_t memory_bytes, const std::string& work_dir,
                                 const std::string& address);

}  // namespace bp::node
