#include "runtime/text/chat_template.h"

#include "golden.h"

namespace bp::rt {
namespace {

Result<std::string> render(const std::string& source, const std::string& variables = "{}") {
  auto t = ChatTemplate::parse(source, {"<s>", "</s>"});
  if (!t.ok()) return std::move(t).error();
  return (*t)->render_json(variables);
}

}  // namespace

TEST_CASE("templates render as jinja2 renders them", "[template]") {
  auto variables = load_golden("templates/variables.json");
  auto rows = load_golden("templates.json");
  for (const auto& row : rows.as_array()) {
    std::string name(row.at("template").as_string());
    auto index = static_cast<size_t>(row.at("variables").as_int64());
    INFO(name << " with variables " << index);
    auto source = read_file(kGoldenText + "templates/" + name, 1 << 20);
    REQUIRE(source.ok());
    auto got = render(*source, boost::json::serialize(variables.at(index)));
    const auto& want = row.as_object();
    if (want.contains("text")) {
      INFO((got.ok() ? "" : got.error().to_string()));
      REQUIRE(got.ok());
      CHECK(*got == std::string(want.at("text").as_string()));
    } else {
      REQUIRE(!got.ok());
      CHECK(got.error().code == ErrorCode::kInvalidArgument);
      if (want.contains("refused")) {
        CHECK(got.error().message.find(std::string(want.at("refused").as_string())) !=
              std::string::npos);
      }
    }
  }
}

TEST_CASE("broken templates are refused with the line", "[template]") {
  for (const char* source :
       {"{{", "{% if %}", "{% for x in %}{% endfor %}", "{% if a %}", "{{ 'x }}", "{% endif %}",
        "{{ a b }}", "{% unknown %}", "{{ (1 }}", "{{ a[1:2:3:4] }}", "{# open", "{{ 1 + }}",
        "{% macro f(a=1, b) %}{% endmacro %}", "{{ '\\u12' }}", "{{ 99999999999999999999 }}"}) {
    INFO(source);
    auto got = render(source);
    REQUIRE(!got.ok());
    CHECK(got.error().code == ErrorCode::kCorruptData);
    CHECK(got.error().message.find("line") != std::string::npos);
  }
}

TEST_CASE("failures while rendering are errors, not crashes", "[template]") {
  for (const char* source : {"{{ nothing.field }}",
                             "{{ nothing() }}",
                             "{{ 1 / 0 }}",
                             "{{ 1 // 0 }}",
                             "{{ 1 % 0 }}",
                             "{{ 'a' + 1 }}",
                             "{{ [1] < 'a' }}",
                             "{{ 'a' | nofilter }}",
                             "{{ 1 is notest }}",
                             "{{ 9223372036854775807 | int + 1 }}",
                             "{% set x.y = 1 %}",
                             "{% for a, b in [[1]] %}{% endfor %}",
                             "{{ range(10000000) }}",
                             "{{ 'x' * 100000000 }}",
                             "{{ raise_exception('no') }}",
                             "{{ namespace }}",
                             "{{ [].append(1) }}",
                             "{{ {}['a'].b }}",
                             "{{ '%d' % 'x' }}",
                             "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
                             "{{ 1[::0] }}"}) {
    INFO(source);
    auto got = render(source);
    REQUIRE(!got.ok());
  }
}

TEST_CASE("templates are bounded in steps, depth and output", "[template]") {
  auto endless =
      render("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}");
  REQUIRE(!endless.ok());
  CHECK(endless.error().message.find("steps") != std::string::npos);
  auto doubling = render(
      "{% set ns = namespace(s='x' * 1000) %}{% for i in range(99) %}"
      "{% set ns.s = ns.s ~ ns.s %}{% endfor %}");
  REQUIRE(!doubling.ok());
  std::string deep(5000, '(');
  CHECK(!render("{{ " + deep).ok());
  std::string blocks;
  for (int i = 0; i < 5000; ++i) blocks += "{% if 1 %}";
  CHECK(!render(blocks).ok());
  std::string nots = "{{ ";
  for (int i = 0; i < 100000; ++i) nots += "not ";
  CHECK(!render(nots + "1 }}").ok());
}

}  // namespace bp::rt
