// serve_load: keeps a number of streaming completions under way against an OpenAI endpoint (closed loop: the
// next begins when one ends) and prints what came as one line of JSON. One thread, plain sockets: it runs on
// the cores that it measures, so it says what share of them it took.
#include <arpa/inet.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kSilenceMs = 60'000;

struct Options {
  std::string address = "127.0.0.1", model, extra;
  int port = 0, streams = 1, requests = 8, words = 150, out_tokens = 64, seed = 1;
};

struct Result {
  double first_ms = 0, seconds = 0, longest_gap_ms = 0;
  int events = 0, tokens = 0, prompt_tokens = 0;
};

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "serve_load: %s\n", what.c_str());
  std::exit(1);
}

double ms_between(Clock::time_point a, Clock::time_point b) {
  return std::chrono::duration<double, std::milli>(b - a).count();
}

/// One request on one connection.
class Stream {
 public:
  Stream(const Options& o, std::mt19937& random) : begin_(Clock::now()), last_(begin_) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(o.port));
    if (::inet_pton(AF_INET, o.address.c_str(), &to.sin_addr) != 1) fail("not an IPv4 address: " + o.address);
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0)
      fail("connect: " + std::string(std::strerror(errno)));
    const std::string body = request_body(o, random);
    const std::string text = "POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
                             "Connection: close\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
    if (::send(fd_, text.data(), text.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(text.size()))
      fail("the request does not fit into the socket");
  }
  ~Stream() { ::close(fd_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  int fd() const { return fd_; }
  const Result& result() const { return result_; }

  /// Reads what is there; true when the answer is complete.
  bool read() {
    char piece[16384];
    const ssize_t n = ::recv(fd_, piece, sizeof piece, 0);
    if (n <= 0) fail("the stream ended early: " + buffer_.substr(0, 400));
    buffer_.append(piece, static_cast<size_t>(n));
    if (!headed_ && buffer_.size() > 12) {
      if (buffer_.compare(9, 3, "200") != 0) fail("refused: " + buffer_.substr(0, 600));
      headed_ = true;
    }
    size_t from = 0;
    for (size_t end; (end = buffer_.find("\n\n", from)) != std::string::npos; from = end + 2)
      event(std::string_view(buffer_).substr(from, end - from));
    buffer_.erase(0, from);
    if (done_) result_.seconds = ms_between(begin_, Clock::now()) / 1000;
    return done_;
  }

 private:
  static std::string request_body(const Options& o, std::mt19937& random) {
    static const char* const kWords[] = {"the",  "sea",   "river", "mountain", "light", "house",  "quick", "brown",
                                         "fox",  "jumps", "over",  "lazy",     "dog",   "while",  "rain",  "falls",
                                         "on",   "green", "fields", "children", "sing", "old",    "songs", "near"};
    std::string prompt;
    for (int i = 0; i < o.words; ++i) (prompt += i ? " " : "") += kWords[random() % std::size(kWords)];
    return "{\"model\":\"" + o.model + "\",\"prompt\":\"" + prompt + "\",\"max_tokens\":" +
           std::to_string(o.out_tokens) + ",\"temperature\":0,\"stream\":true,\"ignore_eos\":true," + o.extra +
           "\"stream_options\":{\"include_usage\":true}}";
  }
  static int number_behind(std::string_view text, std::string_view key) {
    const size_t at = text.find(key);
    return at == std::string_view::npos ? 0 : std::atoi(text.data() + at + key.size());
  }
  void event(std::string_view text) {
    const size_t data = text.find("data: ");
    if (data == std::string_view::npos) return;
    text.remove_prefix(data + 6);
    if (text.substr(0, 6) == "[DONE]") {
      done_ = true;
      return;
    }
    if (text.find("\"error\":{") != std::string_view::npos) fail(std::string(text.substr(0, 400)));
    const size_t content = text.find("\"text\":\"");
    if (content != std::string_view::npos && text[content + 8] != '"') {
      const auto now = Clock::now();
      if (result_.events++ == 0) result_.first_ms = ms_between(begin_, now);
      else result_.longest_gap_ms = std::max(result_.longest_gap_ms, ms_between(last_, now));
      last_ = now;
    }
    if (const int n = number_behind(text, "\"completion_tokens\":")) result_.tokens = n;
    if (const int n = number_behind(text, "\"prompt_tokens\":")) result_.prompt_tokens = n;
  }
  int fd_ = -1;
  Clock::time_point begin_, last_;
  std::string buffer_;
  Result result_;
  bool headed_ = false, done_ = false;
};

double cpu_seconds() {
  rusage u{};
  ::getrusage(RUSAGE_SELF, &u);
  const auto s = [](const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6; };
  return s(u.ru_utime) + s(u.ru_stime);
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

void run(const Options& o) {
  std::mt19937 random(static_cast<uint32_t>(o.seed));
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<Result> results;
  const auto begin = Clock::now();
  int started = 0;
  while (static_cast<int>(results.size()) < o.requests) {
    while (static_cast<int>(streams.size()) < o.streams && started < o.requests) {
      streams.push_back(std::make_unique<Stream>(o, random));
      ++started;
    }
    std::vector<pollfd> wait;
    for (const auto& s : streams) wait.push_back({s->fd(), POLLIN, 0});
    if (::poll(wait.data(), wait.size(), kSilenceMs) <= 0) fail("no stream said anything for 60 s");
    for (size_t i = wait.size(); i > 0; --i) {
      if (wait[i - 1].revents == 0 || !streams[i - 1]->read()) continue;
      results.push_back(streams[i - 1]->result());
      streams.erase(streams.begin() + static_cast<ptrdiff_t>(i - 1));
    }
  }
  const double seconds = ms_between(begin, Clock::now()) / 1000;
  double tokens = 0, prompt = 0, events = 0, gap = 0;
  std::vector<double> first, between;
  for (const Result& r : results) {
    tokens += r.tokens;
    prompt += r.prompt_tokens;
    events += r.events;
    gap = std::max(gap, r.longest_gap_ms);
    first.push_back(r.first_ms);
    between.push_back((r.seconds * 1000 - r.first_ms) / std::max(1, r.tokens - 1));
  }
  const auto n = static_cast<double>(results.size());
  std::printf("{\"streams\":%d,\"requests\":%zu,\"seconds\":%.3f,\"out_tok_s\":%.1f,\"prompt_tokens\":%.1f,"
              "\"tokens\":%.1f,\"events\":%.1f,\"first_ms\":%.1f,\"between_ms\":%.2f,\"longest_gap_ms\":%.1f,"
              "\"client_cpu_s\":%.3f}\n",
              o.streams, results.size(), seconds, tokens / seconds, prompt / n, tokens / n, events / n, median(first),
              median(between), gap, cpu_seconds());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Streaming completions in a closed loop; prints one line of JSON"};
  Options o;
  app.add_option("--address", o.address, "of the endpoint")->capture_default_str();
  app.add_option("--port", o.port, "of the endpoint")->required();
  app.add_option("--model", o.model, "name that the endpoint serves")->required();
  app.add_option("--streams", o.streams, "requests under way")->capture_default_str();
  app.add_option("--requests", o.requests, "in all")->capture_default_str();
  app.add_option("--words", o.words, "of each prompt")->capture_default_str();
  app.add_option("--out", o.out_tokens, "tokens of each answer")->capture_default_str();
  app.add_option("--seed", o.seed, "of the prompts")->capture_default_str();
  app.add_option("--extra", o.extra, "more fields of the body, each with a comma behind it");
  CLI11_PARSE(app, argc, argv);
  run(o);
  return 0;
}
