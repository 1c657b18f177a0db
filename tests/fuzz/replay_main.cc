// Stands in for libFuzzer: feeds every file of the corpus folder, and mutations of it from a fixed
// seed.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr int kMutations = 300;  // of each file
constexpr size_t kMutatedBytesMax = 64 << 10;

void feed(const std::string& s) {
  // A copy on the heap of exactly this size, so that the address sanitizer sees every read beyond
  // it.
  const std::vector<uint8_t> bytes(s.begin(), s.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

std::string mutate(std::string s, std::mt19937_64& random) {
  const uint64_t kinds[] = {0, 1, 0xff, 0x7fffffffffffffff, UINT64_MAX, uint64_t{1} << 60};
  for (uint64_t edits = 1 + random() % 4; edits > 0 && !s.empty(); --edits) {
    const size_t at = random() % s.size();
    switch (random() % 6) {
      case 0:
        s[at] = static_cast<char>(random());
        break;
      case 1:
        s.resize(at);
        break;
      case 2:
        s.erase(at, 1 + random() % 16);
        break;
      case 3:
        s.insert(at, s.substr(random() % s.size(), random() % 64));
        break;
      case 4:
        s[at] = static_cast<char>(s[at] ^ (1 << random() % 8));
        break;
      default: {
        const uint64_t v = kinds[random() % std::size(kinds)];
        for (size_t i = 0; i < 8 && at + i < s.size(); ++i)
          s[at + i] = static_cast<char>(v >> (8 * i));
      }
    }
  }
  return s;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
    return 2;
  }
  std::vector<std::filesystem::path> files;
  for (const auto& e : std::filesystem::directory_iterator(argv[1])) files.push_back(e.path());
  std::sort(files.begin(), files.end());
  std::mt19937_64 random(20260101);
  size_t inputs = 0;
  for (const auto& path : files) {
    std::ifstream in(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    feed(bytes);
    ++inputs;
    if (bytes.size() > kMutatedBytesMax) continue;
    for (int i = 0; i < kMutations; ++i, ++inputs) feed(mutate(bytes, random));
  }
  std::printf("%zu files, %zu inputs, no defect\n", files.size(), inputs);
  return files.empty() ? 1 : 0;
}
