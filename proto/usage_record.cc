#include "proto/usage_record.h"

#include <google/protobuf/descriptor.h>

#include <nlohmann/json.hpp>

#include "base/check.h"

namespace facet {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Reflection;
using nlohmann::json;
using v1::UsageRecord;

// False if the value is of another type than the field.
bool SetField(const FieldDescriptor& field, const json& value, UsageRecord& record) {
  const Reflection& reflection = *UsageRecord::GetReflection();
  if (field.is_map()) {  // wasted_ns, the only one.
    if (!value.is_object()) return false;
    for (const auto& [reason, ns] : value.items()) {
      if (!ns.is_number_integer()) return false;
      (*record.mutable_wasted_ns())[reason] = ns.get<int64_t>();
    }
    return true;
  }
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      if (!value.is_string()) return false;
      reflection.SetString(&record, &field, value.get<std::string>());
      return true;
    case FieldDescriptor::CPPTYPE_INT64:
      if (!value.is_number_integer()) return false;
      reflection.SetInt64(&record, &field, value.get<int64_t>());
      return true;
    case FieldDescriptor::CPPTYPE_UINT64:
      if (!value.is_number_unsigned()) return false;
      reflection.SetUInt64(&record, &field, value.get<uint64_t>());
      return true;
    case FieldDescriptor::CPPTYPE_UINT32:
      if (!value.is_number_unsigned()) return false;
      reflection.SetUInt32(&record, &field, value.get<uint32_t>());
      return true;
    default:
      FACET_CHECK(false) << "a usage record has a type that lines do not: " << field.name();
      return false;
  }
}

}  // namespace

std::string UsageKey(const UsageRecord& record) {
  return StrCat(record.worker_epoch(), "/", record.epoch(), "/", record.request_id());
}

std::string UsageLine(const UsageRecord& record) {
  const Reflection& reflection = *UsageRecord::GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(record, &fields);
  nlohmann::ordered_json line = nlohmann::ordered_json::object();
  for (const FieldDescriptor* field : fields) {
    if (field->is_map()) {
      for (const auto& [reason, ns] : record.wasted_ns()) line[field->name()][reason] = ns;
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      line[field->name()] = reflection.GetString(record, field);
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
      line[field->name()] = reflection.GetInt64(record, field);
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_UINT64) {
      line[field->name()] = reflection.GetUInt64(record, field);
    } else {
      line[field->name()] = reflection.GetUInt32(record, field);
    }
  }
  return line.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
}

StatusOr<UsageRecord> ParseUsageLine(std::string_view line) {
  const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return InvalidArgument("a line is no JSON object");
  UsageRecord record;
  for (const auto& [name, value] : object.items()) {
    const FieldDescriptor* field = UsageRecord::descriptor()->FindFieldByName(name);
    if (field == nullptr) continue;
    if (!SetField(*field, value, record)) {
      return InvalidArgument(name, " is ", value.dump(), ", which is of another type");
    }
  }
  if (record.request_id().empty()) return InvalidArgument("request_id is missing");
  return record;
}

}  // namespace facet
