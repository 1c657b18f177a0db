#include "engine/cli/json_view.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/stubs/common.h>
#include <sodium.h>

#include <boost/json.hpp>
#include <cctype>
#include <map>

#include "bp/v1/control.pb.h"

namespace bp::cli {
namespace {

namespace json = boost::json;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

json::value message_value(const Message& m);

/// Text as it is; bytes that are no UTF-8 as {"base64": ...}.
json::value bytes_value(const std::string& bytes) {
  if (google::protobuf::internal::IsStructurallyValidUTF8(bytes.data(), int(bytes.size())))
    return json::string(bytes);
  std::string out(sodium_base64_ENCODED_LEN(bytes.size(), sodium_base64_VARIANT_ORIGINAL), '\0');
  sodium_bin2base64(out.data(), out.size(), reinterpret_cast<const unsigned char*>(bytes.data()),
                    bytes.size(), sodium_base64_VARIANT_ORIGINAL);
  out.pop_back();  // its terminating zero
  return json::object{{"base64", out}};
}

/// A map field as an object, sorted by key.
json::value map_value(const Message& m, const FieldDescriptor* f);

/// Field `f` of `m`; element `i` of it when i >= 0.
json::value field_value(const Message& m, const FieldDescriptor* f, int i) {
  const Reflection* r = m.GetReflection();
  const bool many = i >= 0;
  switch (f->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return many ? r->GetRepeatedInt32(m, f, i) : r->GetInt32(m, f);
    case FieldDescriptor::CPPTYPE_INT64:
      return many ? r->GetRepeatedInt64(m, f, i) : r->GetInt64(m, f);
    case FieldDescriptor::CPPTYPE_UINT32:
      return many ? r->GetRepeatedUInt32(m, f, i) : r->GetUInt32(m, f);
    case FieldDescriptor::CPPTYPE_UINT64:
      return many ? r->GetRepeatedUInt64(m, f, i) : r->GetUInt64(m, f);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return many ? r->GetRepeatedDouble(m, f, i) : r->GetDouble(m, f);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return many ? r->GetRepeatedFloat(m, f, i) : r->GetFloat(m, f);
    case FieldDescriptor::CPPTYPE_BOOL:
      return many ? r->GetRepeatedBool(m, f, i) : r->GetBool(m, f);
    case FieldDescriptor::CPPTYPE_ENUM:
      return json::string(enum_word(many ? r->GetRepeatedEnum(m, f, i) : r->GetEnum(m, f)));
    case FieldDescriptor::CPPTYPE_STRING:
      return bytes_value(many ? r->GetRepeatedString(m, f, i) : r->GetString(m, f));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      if (many) return message_value(r->GetRepeatedMessage(m, f, i));
      return r->HasField(m, f) ? message_value(r->GetMessage(m, f)) : json::value(nullptr);
  }
  return nullptr;
}

json::value map_value(const Message& m, const FieldDescriptor* f) {
  std::map<std::string, json::value> sorted;
  for (int i = 0; i < m.GetReflection()->FieldSize(m, f); ++i) {
    const Message& entry = m.GetReflection()->GetRepeatedMessage(m, f, i);
    const FieldDescriptor* key = entry.GetDescriptor()->map_key();
    const json::value k = field_value(entry, key, -1);
    sorted[k.is_string() ? std::string(k.as_string()) : json::serialize(k)] =
        field_value(entry, entry.GetDescriptor()->map_value(), -1);
  }
  json::object out;
  for (auto& [k, v] : sorted) out[k] = std::move(v);
  return out;
}

json::value message_value(const Message& m) {
  json::object out;
  const auto* d = m.GetDescriptor();
  for (int n = 0; n < d->field_count(); ++n) {
    const FieldDescriptor* f = d->field(n);
    if (!f->is_repeated()) {
      out[f->name()] = field_value(m, f, -1);
      continue;
    }
    if (f->is_map()) {
      out[f->name()] = map_value(m, f);
      continue;
    }
    json::array list;
    for (int i = 0; i < m.GetReflection()->FieldSize(m, f); ++i)
      list.push_back(field_value(m, f, i));
    out[f->name()] = std::move(list);
  }
  if (d == v1::ProcessView::descriptor()) {
    const auto& p = static_cast<const v1::ProcessView&>(m);
    out["pid"] = p.identity().pid();
    out["node"] = p.node_id();
  }
  return out;
}

}  // namespace

std::string enum_word(const google::protobuf::EnumValueDescriptor* value) {
  // RUN_STATE_SERVING of RunState: the prefix is the type's name in upper snake case.
  std::string prefix;
  for (char c : value->type()->name()) {
    if (std::isupper(static_cast<unsigned char>(c)) && !prefix.empty()) prefix += '_';
    prefix += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  std::string word = value->name();
  if (word.rfind(prefix + "_", 0) == 0) word.erase(0, prefix.size() + 1);
  for (char& c : word) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return word;
}

std::string to_json(const Message& message) { return json::serialize(message_value(message)); }

std::string error_json(const Error& error, const v1::ErrorInfo* info) {
  v1::ErrorInfo e;
  if (info) *e.mutable_problems() = info->problems();
  e.set_code(std::string(error_name(error.code)));
  e.set_message(error.message);
  e.set_remedy(std::string(error.what_to_do()));
  return json::serialize(json::object{{"error", message_value(e)}});
}

}  // namespace bp::cli
