// Where the goldens and the example model lie.
#pragma once
#include <boost/json.hpp>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <string>

#include "engine/base/files.h"

inline const std::string kGoldenText = std::string(BP_SOURCE_DIR) + "/tests/golden/text/";

inline std::string example_model() {
  const char* cache = std::getenv("BP_CACHE_DIR");
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::string folder =
      cache ? cache
            : (xdg ? std::string(xdg) : std::string(home ? home : "") + "/.cache") + "/bp-daemon";
  return folder + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

inline boost::json::value load_golden(const std::string& name) {
  auto text = bp::read_file(kGoldenText + name, 16 << 20);
  INFO((text.ok() ? "" : text.error().to_string()));
  REQUIRE(text.ok());
  return boost::json::parse(*text);
}
