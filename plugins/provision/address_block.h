// Addresses of local nodes: one block 127.B.C.x per deployment (B 64 to 127), its node INDEX at 10 + INDEX.
// Several daemons, of several users, share a machine's loopback network, so a block is chosen by looking:
// the first one that is free, from a place that differs by state folder and run. Any thread.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/result.h"

namespace bp::stages {

inline constexpr uint32_t kAddressBlocks = 64 * 256;
inline constexpr uint32_t kBlocksTried = 64;

/// What a deployment needs of its block.
struct BlockNeeds {
  std::vector<uint32_t> indexes;     // of its nodes
  uint32_t head_index = 0;
  std::vector<uint32_t> head_ports;  // on the head's address; 0 is skipped
};

/// "127.66.3." of block 0 to kAddressBlocks - 1.
std::string block_prefix(uint32_t block);
/// Address of a node in a block; empty when the block has no room for it (more than 245 nodes).
std::string address_in(const std::string& prefix, uint32_t index);
/// "127.66.3." of "127.66.3.10"; nothing when it is no address of a block.
std::optional<std::string> prefix_of(const std::string& address);
/// Where the search for this run begins.
uint32_t first_block(const std::string& state_dir, uint64_t run_number);

/// Whether no other node has these addresses and the head can listen. kPortBusy and kPermission name
/// address and port.
Status block_is_free(const std::string& prefix, const BlockNeeds& needs);
/// The first free block from `first` on, of kBlocksTried. kPortBusy with what the first one said.
Result<std::string> choose_block(uint32_t first, const BlockNeeds& needs);

}  // namespace bp::stages
