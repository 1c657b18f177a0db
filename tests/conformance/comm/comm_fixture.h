// Groups of ranks as threads over every way of communication, for the conformance suite.
#pragma once
#include <sys/mman.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "runtime/comm/communicator.h"
#include "runtime/comm/groups.h"
#include "runtime/comm/shm_segment.h"

namespace bp::rt::test {

inline const Epoch kEpoch{1, 7};

inline Fd make_segment(uint32_t ranks, size_t ring_bytes = kRingBytesMin) {
  Fd fd(::memfd_create("comm-test", MFD_CLOEXEC));
  uint64_t size = shm_segment_bytes_min(ranks) + uint64_t{ranks} * ranks * (ring_bytes - kRingBytesMin);
  BP_CHECK(::ftruncate(fd.get(), static_cast<off_t>(size)) == 0);
  return fd;
}

/// "shm": one node. "tcp": every rank on a node of its own. "hybrid": ranks 0 and 1 on one node, the rest
/// on another. All as one tensor group.
struct GroupMaker {
  std::string kind;
  uint32_t size;
  std::vector<DataListener> listeners;
  std::vector<GroupMember> members;
  Fd segments[2];
  std::vector<Secret> keys;       // by rank
  std::vector<Epoch> epochs;      // by rank
  int64_t connect_ms = 5'000;

  GroupMaker(std::string k, uint32_t n) : kind(std::move(k)), size(n) {
    for (uint32_t r = 0; r < n; ++r) {
      listeners.push_back(std::move(*DataListener::open("127.0.0.1")));
      std::string node = kind == "shm" ? "n1-0" : kind == "tcp" ? "n1-" + std::to_string(r) : r < 2 ? "n1-0" : "n1-1";
      members.push_back({r, 0, node, listeners[r].endpoint()});
      keys.emplace_back(std::string(32, 'k'));
      epochs.push_back(kEpoch);
    }
    segments[0] = make_segment(n);
    segments[1] = make_segment(n);
  }

  Result<std::unique_ptr<Communicator>> make(uint32_t rank) {
    GroupsOptions o;
    o.epoch = epochs[rank];
    o.rank = rank;
    o.members = members;
    o.listener = &listeners[rank];
    o.comm_fd = segments[kind == "hybrid" && rank >= 2 ? 1 : 0].get();
    o.data_key = keys[rank];
    o.deadline = Deadline::in_ms(connect_ms);
    auto groups = form_groups(o);
    if (!groups.ok()) return groups.error();
    return std::move(groups->tp);
  }

  /// Runs `body` on every rank at once; what each returned, by rank. A group that cannot be made returns
  /// that error.
  std::vector<Status> run(const std::function<Status(Communicator&)>& body) {
    std::vector<Status> out(size);
    std::vector<std::thread> threads;
    for (uint32_t r = 0; r < size; ++r) {
      threads.emplace_back([&, r] {
        auto c = make(r);
        out[r] = c.ok() ? body(**c) : Status(c.error());
      });
    }
    for (auto& t : threads) t.join();
    return out;
  }
};

}  // namespace bp::rt::test
