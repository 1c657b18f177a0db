#include <arpa/inet.h>
#include <netinet/in.h>

#include <catch2/catch.hpp>

#include "engine/fetch/address_rules.h"
#include "engine/fetch/listing.h"
#include "engine/fetch/par_url.h"

using namespace bp;
using namespace bp::fetch;

namespace {

AddressClass class_of(const char* text) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  if (inet_pton(AF_INET, text, &in.sin_addr) == 1) {
    return classify_address(reinterpret_cast<sockaddr*>(&in), sizeof in);
  }
  sockaddr_in6 in6{};
  in6.sin6_family = AF_INET6;
  REQUIRE(inet_pton(AF_INET6, text, &in6.sin6_addr) == 1);
  return classify_address(reinterpret_cast<sockaddr*>(&in6), sizeof in6);
}

}  // namespace

TEST_CASE("address_rules: link-local, multicast and reserved addresses are never contacted") {
  for (const char* a :
       {"169.254.169.254", "169.254.0.1", "fe80::1", "febf::1", "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::169.254.169.254", "224.0.0.1",
        "255.255.255.255", "ff02::1", "192.0.0.192"}) {
    INFO(a);
    CHECK(class_of(a) == AddressClass::kForbidden);
  }
  sockaddr_storage other{};
  other.ss_family = AF_UNIX;
  CHECK(classify_address(reinterpret_cast<sockaddr*>(&other), sizeof other) ==
        AddressClass::kForbidden);
}

TEST_CASE("address_rules: loopback and private addresses are told from public ones") {
  for (const char* a :
       {"127.0.0.1", "127.70.3.4", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255",
        "192.168.1.1", "100.64.0.1", "::1", "::", "fd00::1", "fc00::1", "::ffff:127.0.0.1"}) {
    INFO(a);
    CHECK(class_of(a) == AddressClass::kPrivate);
  }
  for (const char* a :
       {"8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8"}) {
    INFO(a);
    CHECK(class_of(a) == AddressClass::kPublic);
  }
}

TEST_CASE("par_url: the parts of a request are found and its texts carry no token") {
  auto u =
      ParUrl::parse(Secret("https://Objects.example.com/p/t0k-EN_x/n/name%20space/b/models/o"));
  REQUIRE(u.ok());
  CHECK(u->origin == "https://objects.example.com:443");
  CHECK(u->place == "objects.example.com:443/models");
  CHECK(u->base.reveal() ==
        "https://objects.example.com:443/p/t0k-EN_x/n/name%20space/b/models/o/");
  CHECK(u->object_url("a b/c?.gguf").reveal() == u->base.reveal() + "a%20b%2Fc%3F.gguf");
  CHECK(u->list_url("x/", "y&z").reveal() ==
        u->base.reveal() + "?fields=name,size,md5,etag&limit=1000&prefix=x%2F&start=y%26z");
}

TEST_CASE("par_url: what is no request for a bucket is refused without being quoted") {
  for (const char* bad :
       {"", "nonsense", "ftp://h/p/SECRET/n/a/b/c/o/", "https:///p/SECRET/n/a/b/c/o/",
        "https://h/p/SECRET/n/a/b/c/", "https://h/p/SECRET/n/a/b/c/o/object",
        "https://u:SECRET@h/p/SECRET/n/a/b/c/o/", "https://h/p//n/a/b/c/o/",
        "https://h/p/SECRET/n/a/b/c/o/?x=1", "file:///p/SECRET/n/a/b/c/o/"}) {
    INFO(bad);
    auto u = ParUrl::parse(Secret(bad));
    REQUIRE(!u.ok());
    CHECK(u.error().code == ErrorCode::kInvalidArgument);
    CHECK(u.error().to_string().find("SECRET") == std::string::npos);
  }
}

TEST_CASE("par_url: origins differ by scheme, host and port") {
  CHECK(url_origin("http://h/x") == "http://h:80");
  CHECK(url_origin("http://H:80/y") == "http://h:80");
  CHECK(url_origin("https://h/x") != url_origin("http://h/x"));
  CHECK(url_origin("http://user@h/x").empty());
  CHECK(url_origin("/relative").empty());
}

TEST_CASE("listing: a page is read with sizes, etags, digests and its continuation") {
  auto p = parse_list_page(
      R"({"objects":[{"name":"a","size":3,"md5":"bQ==","etag":"e"},{"name":"b","size":0,"md5":null}],
          "prefixes":[],"nextStartWith":"c"})");
  REQUIRE(p.ok());
  REQUIRE(p->objects.size() == 2);
  CHECK(p->objects[0].size_bytes == 3);
  CHECK(p->objects[0].etag == "e");
  CHECK(p->objects[1].md5_base64.empty());
  CHECK(p->next_start == "c");
}

TEST_CASE("listing: what is no listing says where, what was found and what was expected") {
  for (const char* bad :
       {"", "<html>", "[]", "{}", R"({"objects":{}})", R"({"objects":[1]})",
        R"({"objects":[{"size":1}]})", R"({"objects":[{"name":"a"}]})",
        R"({"objects":[{"name":"a","size":-1}]})", R"({"objects":[{"name":"a","size":"1"}]})",
        R"({"objects":[{"name":"a","size":99999999999999999999}]})",
        R"({"objects":[{"name":7,"size":1}]})", R"({"objects":[],"nextStartWith":5})"}) {
    INFO(bad);
    auto p = parse_list_page(bad);
    REQUIRE(!p.ok());
    CHECK(p.error().code == ErrorCode::kCorruptData);
    CHECK(p.error().message.find("expected") != std::string::npos);
  }
  const std::string long_name(2000, 'x');
  CHECK(!parse_list_page(R"({"objects":[{"name":")" + long_name + R"(","size":1}]})").ok());
  CHECK(!parse_list_page(std::string(100000, '[')).ok());
}
