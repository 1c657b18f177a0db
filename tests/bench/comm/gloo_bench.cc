// Gloo's all-reduce over TCP on loopback between two processes.
#include <gloo/allreduce.h>
#include <gloo/algorithm.h>
#include <gloo/barrier.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <vector>

#include "engine/base/clock.h"

namespace bp::bench {

int gloo_times(size_t floats, int rounds, std::vector<double>* us) {
  char folder[] = "/tmp/bench-gloo-XXXXXX";
  if (!::mkdtemp(folder)) return 2;
  const pid_t child = ::fork();
  const int rank = child == 0 ? 1 : 0;
  int status = 0;
  try {
    gloo::transport::tcp::attr attr("127.0.0.1");
    auto device = gloo::transport::tcp::CreateDevice(attr);
    gloo::rendezvous::FileStore store(folder);
    auto context = std::make_shared<gloo::rendezvous::Context>(rank, 2);
    context->setTimeout(std::chrono::seconds(10));
    context->connectFullMesh(store, device);
    std::vector<float> data(floats, 1.0f);
    for (int i = 0; i < rounds; ++i) {
      std::fill(data.begin(), data.end(), 1.0f);
      const int64_t begin = monotonic_ns();
      gloo::AllreduceOptions options(context);
      options.setOutput(data.data(), data.size());
      options.setReduceFunction(static_cast<void (*)(void*, const void*, const void*, size_t)>(&gloo::sum<float>));
      gloo::allreduce(options);
      us->push_back(static_cast<double>(monotonic_ns() - begin) / 1000);
      if (data[floats / 2] != 2.0f) status = 4;
    }
    gloo::BarrierOptions barrier(context);
    gloo::barrier(barrier);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "gloo: %s\n", e.what());
    status = 3;
  }
  if (child == 0) ::_exit(status);
  int other = 0;
  ::waitpid(child, &other, 0);
  std::filesystem::remove_all(folder);
  return status ? status : WEXITSTATUS(other);
}

}  // namespace bp::bench
