#include "runtime/comm/shm_communicator.h"

#include <thread>

#include "runtime/comm/mesh_communicator.h"
#include "runtime/comm/shm_segment.h"

namespace bp::rt {

int64_t spin_ns_for(uint32_t ranks) {
  return std::thread::hardware_concurrency() > ranks ? 50'000 : 2'000;
}

Result<std::unique_ptr<Communicator>> make_shm_communicator(const ShmOptions& o) {
  const auto size = static_cast<uint32_t>(o.labels.size());
  std::vector<uint32_t> members;
  for (uint32_t r = 0; r < size; ++r) members.push_back(r);
  BP_ASSIGN(auto segment, ShmSegment::attach(o.fd, o.epoch, o.rank, size, members, o.deadline));
  MeshOptions mesh;
  mesh.name = o.name;
  mesh.epoch = o.epoch;
  mesh.rank = o.rank;
  mesh.labels = o.labels;
  for (uint32_t r = 0; r < size; ++r) {
    mesh.links.push_back(r == o.rank ? nullptr : segment->link(r, o.labels[r]));
  }
  mesh.doorbell = segment;
  mesh.kind = "shm";
  mesh.spin_ns = spin_ns_for(size);
  return make_mesh_communicator(std::move(mesh));
}

}  // namespace bp::rt
