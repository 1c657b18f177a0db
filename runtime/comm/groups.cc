#include "runtime/comm/groups.h"

#include <algorithm>

#include "runtime/comm/mesh_communicator.h"
#include "runtime/comm/shm_segment.h"

namespace bp::rt {
namespace {

enum Purpose : uint32_t { kTensor = 1, kPipeline = 2 };

/// One group while it is put together.
struct Draft {
  std::string name;
  uint32_t purpose = 0;
  std::vector<uint32_t> ranks;     // global, in group order
  uint32_t at = 0;                 // our place
  std::shared_ptr<ShmSegment> segment;
  std::vector<std::unique_ptr<Link>> links;
  uint32_t shm_links = 0, tcp_links = 0;
};

std::string label(const GroupsOptions& o, uint32_t rank) {
  return "rank " + std::to_string(rank) + " (" + o.members[rank].node_id + ")";
}

Result<Draft> draft(const GroupsOptions& o, bool tensor) {
  const GroupMember& me = o.members[o.rank];
  auto place = [&](const GroupMember& m) { return tensor ? m.tp_rank : m.pp_rank; };
  auto same = [&](const GroupMember& m) { return tensor ? m.pp_rank == me.pp_rank : m.tp_rank == me.tp_rank; };
  Draft d;
  d.name = tensor ? "tp" : "pp";
  d.purpose = tensor ? kTensor : kPipeline;
  for (uint32_t r = 0; r < o.members.size(); ++r) if (same(o.members[r])) d.ranks.push_back(r);
  std::sort(d.ranks.begin(), d.ranks.end(),
            [&](uint32_t a, uint32_t b) { return place(o.members[a]) < place(o.members[b]); });
  for (uint32_t i = 0; i < d.ranks.size(); ++i) {
    if (place(o.members[d.ranks[i]]) != i) {
      return Error{ErrorCode::kInvalidArgument,
                   "place " + std::to_string(i) + " of the " + d.name + " group is filled wrongly", {}};
    }
  }
  d.at = place(me);
  d.links.resize(d.ranks.size());
  return d;
}

bool shares_memory(const GroupsOptions& o, const Draft& d, uint32_t rank) {
  return d.purpose == kTensor && o.members[rank].node_id == o.members[o.rank].node_id;
}

Status link_by_memory(const GroupsOptions& o, Draft& d) {
  std::vector<uint32_t> places;
  for (uint32_t i = 0; i < d.ranks.size(); ++i) {
    if (i != d.at && shares_memory(o, d, d.ranks[i])) places.push_back(i);
  }
  if (places.empty()) return {};
  if (o.comm_fd < 0) {
    return Error{ErrorCode::kInvalidArgument, "ranks of one node need a comm segment, none was given", {}};
  }
  const ShmSegment::Who who{o.epoch, o.generation, d.at, static_cast<uint32_t>(d.ranks.size()),
                            d.at < places.front(), o.cancelled};
  BP_ASSIGN(d.segment, ShmSegment::attach(o.comm_fd, who, places, o.deadline));
  for (uint32_t i : places) d.links[i] = d.segment->link(i, label(o, d.ranks[i]));
  d.shm_links = static_cast<uint32_t>(places.size());
  return {};
}

Result<std::unique_ptr<Communicator>> finish(const GroupsOptions& o, Draft d) {
  if (d.ranks.size() == 1) return make_solo_communicator(o.epoch);
  MeshOptions mesh;
  mesh.name = d.name;
  mesh.epoch = o.epoch;
  mesh.rank = d.at;
  for (uint32_t r : d.ranks) mesh.labels.push_back(label(o, r));
  mesh.links = std::move(d.links);
  mesh.doorbell = d.segment;
  if (d.tcp_links == 0) mesh.exchange = d.segment;
  mesh.kind = d.tcp_links == 0 ? "shm" : d.shm_links == 0 ? "tcp, encrypted" : "shm and tcp, encrypted";
  // Over a network there is nothing to win by looking again.
  if (d.shm_links > 0) mesh.spin = spin_policy(std::max(o.busy_threads, static_cast<uint32_t>(o.members.size())));
  return make_mesh_communicator(std::move(mesh));
}

}  // namespace

Result<Groups> form_groups(const GroupsOptions& o) {
  if (o.rank >= o.members.size() || !o.listener) {
    return Error{ErrorCode::kInvalidArgument, "rank " + std::to_string(o.rank) + " is not of this group", {}};
  }
  BP_ASSIGN(Draft tp, draft(o, true));
  BP_ASSIGN(Draft pp, draft(o, false));
  if (tp.ranks.size() * pp.ranks.size() != o.members.size()) {
    return Error{ErrorCode::kInvalidArgument, "the ranks are no full grid of tensor and pipeline places", {}};
  }
  BP_TRY(link_by_memory(o, tp));
  ConnectOptions connect;
  connect.rank = o.rank;
  connect.epoch = o.epoch;
  connect.data_key = o.data_key;
  connect.deadline = o.deadline;
  connect.cancelled = o.cancelled;
  std::vector<std::pair<Draft*, uint32_t>> places;
  for (Draft* d : {&tp, &pp}) {
    for (uint32_t i = 0; i < d->ranks.size(); ++i) {
      if (i == d->at || d->links[i]) continue;
      connect.peers.push_back({d->ranks[i], d->purpose, o.members[d->ranks[i]].data_endpoint, label(o, d->ranks[i])});
      places.push_back({d, i});
      ++d->tcp_links;
    }
  }
  BP_ASSIGN(auto links, connect_peers(*o.listener, connect));
  for (size_t i = 0; i < links.size(); ++i) places[i].first->links[places[i].second] = std::move(links[i]);
  Groups groups;
  BP_ASSIGN(groups.tp, finish(o, std::move(tp)));
  BP_ASSIGN(groups.pp, finish(o, std::move(pp)));
  return groups;
}

}  // namespace bp::rt
