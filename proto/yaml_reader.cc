#include "proto/yaml_reader.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <yaml-cpp/yaml.h>

#include <cmath>
#include <exception>
#include <limits>
#include <set>
#include <utility>

namespace facet {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Turns YAML nodes into fields of a message, by their names.
class MessageReader {
 public:
  MessageReader(std::string_view file_name, std::span<const NumberBound> bounds)
      : file_name_(file_name), bounds_(bounds) {}

  // path is how errors call the message: "" for the whole file, else "router" and so on.
  Status ReadMessage(const YAML::Node& node, const std::string& path, Message& message) {
    if (!node.IsMap()) return Error(node, path, "must be a map of fields");
    std::set<std::string> seen;
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) return Error(entry.first, path, "has a key that is no name");
      const std::string& key = entry.first.Scalar();
      const std::string field_path = path.empty() ? key : StrCat(path, ".", key);
      const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(key);
      if (field == nullptr) {
        return Error(entry.first, field_path, "is not known; known here: " + FieldNames(message));
      }
      if (!seen.insert(key).second) return Error(entry.first, field_path, "stands twice");
      FACET_RETURN_IF_ERROR(ReadField(entry.second, field_path, *field, message));
    }
    return absl::OkStatus();
  }

  FieldLines TakeLines() { return std::move(lines_); }

 private:
  Status Error(const YAML::Node& node, std::string_view path, std::string_view what) const {
    return InvalidArgument(file_name_, ":", node.Mark().line + 1, ": ",
                           path.empty() ? "the file" : path, " ", what);
  }

  static std::string FieldNames(const Message& message) {
    std::string names;
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      if (i > 0) names += ", ";
      names += message.GetDescriptor()->field(i)->name();
    }
    return names;
  }

  Status ReadField(const YAML::Node& node,
                   const std::string& path,
                   const FieldDescriptor& field,
                   Message& message) {
    if (!field.is_repeated()) return ReadValue(node, path, field, message);
    if (!node.IsSequence()) return Error(node, path, "must be a list");
    for (size_t i = 0; i < node.size(); ++i) {
      FACET_RETURN_IF_ERROR(ReadValue(node[i], StrCat(path, "[", i, "]"), field, message));
    }
    return absl::OkStatus();
  }

  // Sets the field, or adds to it if it is repeated: messages and strings can be.
  Status ReadValue(const YAML::Node& node,
                   const std::string& path,
                   const FieldDescriptor& field,
                   Message& message) {
    const Reflection& reflection = *message.GetReflection();
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      Message* inner = field.is_repeated() ? reflection.AddMessage(&message, &field)
                                           : reflection.MutableMessage(&message, &field);
      return ReadMessage(node, path, *inner);
    }
    if (!node.IsScalar()) return Error(node, path, "must be a single value");
    lines_[path] = node.Mark().line + 1;
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        if (field.is_repeated()) {
          reflection.AddString(&message, &field, node.Scalar());
        } else {
          reflection.SetString(&message, &field, node.Scalar());
        }
        return absl::OkStatus();
      case FieldDescriptor::CPPTYPE_INT32:
      case FieldDescriptor::CPPTYPE_INT64:
        return ReadInteger(node, path, field, message);
      case FieldDescriptor::CPPTYPE_BOOL:
        return ReadBool(node, path, field, message);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return ReadDouble(node, path, field, message);
      default:
        return Internal(path, " has a type that the reader does not know");
    }
  }

  NumberBound BoundOf(const FieldDescriptor& field) const {
    for (const NumberBound& bound : bounds_) {
      if (bound.field == field.full_name()) return bound;
    }
    const bool narrow = field.cpp_type() == FieldDescriptor::CPPTYPE_INT32;
    return {
        .field = {},
        .min = 0,
        .max = narrow ? std::numeric_limits<int32_t>::max() : std::numeric_limits<int64_t>::max()};
  }

  Status ReadBool(const YAML::Node& node,
                  const std::string& path,
                  const FieldDescriptor& field,
                  Message& message) const {
    bool value = false;
    if (!YAML::convert<bool>::decode(node, value)) {
      return Error(node, path, StrCat("is ", node.Scalar(), "; it must be true or false"));
    }
    message.GetReflection()->SetBool(&message, &field, value);
    return absl::OkStatus();
  }

  Status ReadInteger(const YAML::Node& node,
                     const std::string& path,
                     const FieldDescriptor& field,
                     Message& message) const {
    const NumberBound bound = BoundOf(field);
    int64_t value = 0;
    if (!YAML::convert<int64_t>::decode(node, value) || value < bound.min || value > bound.max) {
      return Error(node, path,
                   StrCat("is ", node.Scalar(), "; it must be an integer from ", bound.min, " to ",
                          bound.max));
    }
    const Reflection& reflection = *message.GetReflection();
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT32) {
      reflection.SetInt32(&message, &field, static_cast<int32_t>(value));
    } else {
      reflection.SetInt64(&message, &field, value);
    }
    return absl::OkStatus();
  }

  Status ReadDouble(const YAML::Node& node,
                    const std::string& path,
                    const FieldDescriptor& field,
                    Message& message) const {
    const NumberBound bound = BoundOf(field);
    double value = 0;
    if (!YAML::convert<double>::decode(node, value) || !std::isfinite(value) ||
        value < static_cast<double>(bound.min) || value > static_cast<double>(bound.max)) {
      return Error(node, path,
                   StrCat("is ", node.Scalar(), "; it must be a number from ", bound.min, " to ",
                          bound.max));
    }
    message.GetReflection()->SetDouble(&message, &field, value);
    return absl::OkStatus();
  }

  const std::string_view file_name_;
  const std::span<const NumberBound> bounds_;
  FieldLines lines_;
};

}  // namespace

StatusOr<FieldLines> ReadYaml(const std::string& yaml,
                              std::string_view file_name,
                              std::span<const NumberBound> bounds,
                              Message& message) {
  try {
    const YAML::Node root = YAML::Load(yaml);
    if (root.IsNull()) return InvalidArgument(file_name, ": the file is empty");
    MessageReader reader(file_name, bounds);
    FACET_RETURN_IF_ERROR(reader.ReadMessage(root, "", message));
    return reader.TakeLines();
  } catch (const YAML::Exception& error) {
    return InvalidArgument(file_name, ":", error.mark.line + 1, ": ", error.msg);
  } catch (const std::exception& error) {
    return InvalidArgument(file_name, ": ", error.what());
  }
}

Status CheckName(std::string_view field, const std::string& value) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-";
  if (!value.empty() && value.size() <= 128 &&
      value.find_first_not_of(kAllowed) == std::string::npos) {
    return absl::OkStatus();
  }
  return InvalidArgument(field, " is \"", value,
                         "\"; it must be 1 to 128 letters, digits or any of . _ / -");
}

}  // namespace facet
