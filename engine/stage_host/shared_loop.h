// SharedLoop: many attempts of one plugin in one process. Owns the socket to the daemon (this thread); stages
// run on a WorkerPool.
//
// - StageBatch both ways: one ZeroMQ message carries what one turn of the loop made.
// - A result is said again every kResultMs until its sequence is acknowledged (StageBatch.result_acks, or a
//   ResultAck with its ref); it keeps its sequence.
// - An attempt that is here already (same run, stage, map index, epoch) is not begun again.
// - While nothing is heard for kQuietMs the host says hello with all attempts that it holds: the daemon may
//   have restarted. Nothing is queued for a daemon that is away.
// - Batches, if only empty ones, leave at least every kStageBeatMs; beats of an attempt when it is older than
//   that or has something to say.
#pragma once
#include "engine/base/fd.h"
#include "engine/bus/bus.h"
#include "engine/stage_host/host_loop.h"

namespace bp::stage_host {

/// Serves until the daemon stayed away for away_limit_ms, or no attempt came for idle_limit_ms. Returns the
/// exit status of the program; does not return while a stage that ignores its cancel still runs (it ends the
/// process instead).
int run_shared(const HostOptions& options, Result<const bp_stage_v1*> plugin, bus::Dealer& dealer, Fd wake);

}  // namespace bp::stage_host
