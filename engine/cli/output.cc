#include "engine/cli/output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "engine/base/files.h"
#include "engine/base/secret.h"
#include "engine/cli/json_view.h"
#include "engine/cli/progress.h"

namespace bp::cli {

int fail(const Options& o, const Error& error, const v1::ErrorInfo* info) {
  if (o.json) print_line(error_json(error, info));
  if (info && info->problems_size() > 0) {
    fmt::print(stderr, "bp: {}: {} problems\n", error_name(error.code), info->problems_size());
    for (const auto& p : info->problems()) {
      fmt::print(stderr, "  {}: found {}, expected {}\n    -> {}\n", p.path(), p.found(),
                 p.expected(), p.remedy());
    }
    return error_exit_code(error.code);
  }
  fmt::print(stderr, "bp: {}: {}\n", error_name(error.code), redact(error.message));
  fmt::print(stderr, "    {}\n", error.what_to_do());
  return error_exit_code(error.code);
}

void print_line(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

Result<std::string> read_input(const std::string& path, size_t max_bytes) {
  if (path != "-") return read_file(path, max_bytes);
  std::string text;
  char buffer[16 << 10];
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (n == 0) return text;
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno_error("read standard input", errno);
    }
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > max_bytes) {
      return Error{
          ErrorCode::kTooLarge,
          fmt::format("standard input: found more than {} bytes, expected at most that", max_bytes),
          {}};
    }
  }
}

std::string time_text(int64_t wall_ms) {
  if (wall_ms == 0) return "-";
  const std::time_t seconds = wall_ms / 1000;
  std::tm t{};
  ::gmtime_r(&seconds, &t);
  char text[32];
  std::strftime(text, sizeof text, "%F %T", &t);
  return fmt::format("{}.{:03}", text, wall_ms % 1000);
}

bool terminal() {
  const char* term = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && term && std::string(term) != "dumb";
}

Result<v1::RunView> wait_for(const Options& o, Session& session, const std::string& id,
                             bool until_ready) {
  Progress progress(stderr, terminal());
  auto show = [&](const v1::RunView& run) {
    if (o.json)
      print_line(to_json(run));
    else
      progress.update(run);
  };
  return session.watch(id, until_ready, show, Deadline::in_ms(o.timeout_s * 1000));
}

int report_end(const Options& o, const v1::RunView& run) {
  switch (run.state()) {
    case v1::RUN_STATE_FAILED:
    case v1::RUN_STATE_NEEDS_HUMAN:
      break;
    default:
      return 0;
  }
  fmt::print(stderr, "bp: deployment {}: {}\n", run.name(), state_word(run.state()));
  if (run.has_error()) {
    fmt::print(stderr, "    {}: {}\n    {}\n", run.error().code(), redact(run.error().message()),
               run.error().remedy());
  }
  for (const auto& s : run.survivors()) fmt::print(stderr, "    still there: {}\n", s);
  return 1;
}

}  // namespace bp::cli
