#include "worker/model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace facet::worker {
namespace {

using nlohmann::json;

constexpr int64_t kHeaderBytesMax = 100 << 20;

// 0 for a type we do not know.
int64_t ElementBytes(std::string_view dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "BF16" || dtype == "F16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL" || dtype.starts_with("F8")) return 1;
  return 0;
}

// One entry of the header, checked against the bytes there are.
StatusOr<StoredTensor> ReadEntry(const json& entry, const std::byte* data, int64_t data_bytes) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
      !entry.contains("shape") || !entry["shape"].is_array() || !entry.contains("data_offsets") ||
      !entry["data_offsets"].is_array() || entry["data_offsets"].size() != 2) {
    return InvalidArgument("its header entry lacks dtype, shape or data_offsets");
  }
  StoredTensor tensor{.dtype = entry["dtype"].get<std::string>()};
  const int64_t element_bytes = ElementBytes(tensor.dtype);
  if (element_bytes == 0) return InvalidArgument("dtype ", tensor.dtype, " is unknown");
  int64_t elements = 1;
  for (const json& size : entry["shape"]) {
    if (!size.is_number_unsigned()) return InvalidArgument("a dimension is not a whole number");
    const auto dim = size.get<uint64_t>();
    if (dim != 0 &&
        elements > data_bytes / static_cast<int64_t>(std::min<uint64_t>(dim, 1LL << 62))) {
      return InvalidArgument("its shape needs more bytes than the file has");
    }
    tensor.shape.push_back(static_cast<int64_t>(dim));
    elements *= static_cast<int64_t>(dim);
  }
  for (const json& offset : entry["data_offsets"]) {
    if (!offset.is_number_unsigned()) return InvalidArgument("a data offset is not a whole number");
  }
  const auto begin = entry["data_offsets"][0].get<uint64_t>();
  const auto end = entry["data_offsets"][1].get<uint64_t>();
  if (begin > end || end > static_cast<uint64_t>(data_bytes)) {
    return InvalidArgument("its data ends at byte ", end, " of ", data_bytes,
                           " (is the file truncated?)");
  }
  tensor.data = data + begin;
  tensor.bytes = static_cast<int64_t>(end - begin);
  if (tensor.bytes != elements * element_bytes) {
    return InvalidArgument("it has ", tensor.bytes, " bytes; shape ", tensor.ShapeText(), " of ",
                           tensor.dtype, " needs ", elements * element_bytes);
  }
  return tensor;
}

}  // namespace

int64_t StoredTensor::num_elements() const {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return count;
}

std::string StoredTensor::ShapeText() const {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return NotFound("cannot open ", path, ": ", std::strerror(errno));

  struct stat info {};

  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return InvalidArgument(path, " is not a regular file");
  }
  auto file = std::unique_ptr<SafetensorsFile>(new SafetensorsFile());
  if (info.st_size < 8) {
    close(fd);
    return InvalidArgument(path, " has ", info.st_size,
                           " bytes; a safetensors file has at least 8");
  }
  void* mapping = mmap(nullptr, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (mapping == MAP_FAILED) return Unavailable("cannot map ", path, ": ", std::strerror(errno));
  file->mapped_ = {
      .path = path, .data = static_cast<const std::byte*>(mapping), .bytes = info.st_size};
  FACET_RETURN_IF_ERROR(file->ReadHeader());
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (mapped_.data == nullptr) return;
  munmap(const_cast<std::byte*>(mapped_.data), static_cast<size_t>(mapped_.bytes));
}

Status SafetensorsFile::ReadHeader() {
  const auto& [path, bytes, file_bytes] = mapped_;
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes, sizeof(header_bytes));
  if (header_bytes > static_cast<uint64_t>(std::min(kHeaderBytesMax, file_bytes - 8))) {
    return InvalidArgument(path, ": header length is ", header_bytes, "; at most ",
                           std::min(kHeaderBytesMax, file_bytes - 8), " fits");
  }
  const char* text = reinterpret_cast<const char*>(bytes) + 8;
  const json header = json::parse(text, text + header_bytes, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) return InvalidArgument(path, ": the header is not a JSON object");
  const std::byte* data = bytes + 8 + header_bytes;
  const int64_t data_bytes = file_bytes - 8 - static_cast<int64_t>(header_bytes);
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    StatusOr<StoredTensor> tensor = ReadEntry(entry, data, data_bytes);
    if (!tensor.ok()) return Annotate(tensor.status(), StrCat(path, ": tensor ", name));
    tensors_.emplace(name, *std::move(tensor));
  }
  return absl::OkStatus();
}

const StoredTensor* SafetensorsFile::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

StatusOr<Checkpoint> Checkpoint::Open(const std::string& directory) {
  Checkpoint checkpoint;
  const std::string single = directory + "/model.safetensors";
  const std::string index_path = directory + "/model.safetensors.index.json";
  if (!std::filesystem::exists(index_path)) {
    if (!std::filesystem::exists(single)) {
      return NotFound("no model.safetensors or model.safetensors.index.json in ", directory);
    }
    FACET_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(single));
    for (const auto& [name, tensor] : file->tensors()) checkpoint.tensors_[name] = &tensor;
    checkpoint.files_.push_back(std::move(file));
    return checkpoint;
  }
  FACET_ASSIGN_OR_RETURN(const std::string text, ReadFile(index_path));
  const json index = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return InvalidArgument(index_path, ": weight_map is missing or not an object");
  }
  std::map<std::string, const SafetensorsFile*> shards;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    if (!shard.is_string() || shard.get<std::string>().find('/') != std::string::npos) {
      return InvalidArgument(index_path, ": weight_map[", name, "] is not a file name");
    }
    const auto shard_name = shard.get<std::string>();
    if (!shards.contains(shard_name)) {
      FACET_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(StrCat(directory, "/", shard_name)));
      shards[shard_name] = file.get();
      checkpoint.files_.push_back(std::move(file));
    }
    const StoredTensor* tensor = shards[shard_name]->Find(name);
    if (tensor == nullptr) {
      return InvalidArgument(index_path, ": tensor ", name, " is not in ", shard_name);
    }
    checkpoint.tensors_[name] = tensor;
  }
  return checkpoint;
}

Checkpoint Checkpoint::FromMemory(std::map<std::string, StoredTensor, std::less<>> tensors,
                                  std::shared_ptr<const void> owner) {
  Checkpoint checkpoint;
  checkpoint.memory_ = std::move(owner);
  checkpoint.memory_tensors_ =
      std::make_shared<const std::map<std::string, StoredTensor, std::less<>>>(std::move(tensors));
  for (const auto& [name, tensor] : *checkpoint.memory_tensors_)
    checkpoint.tensors_[name] = &tensor;
  return checkpoint;
}

std::vector<MappedFile> Checkpoint::files() const {
  std::vector<MappedFile> files;
  for (const std::unique_ptr<SafetensorsFile>& file : files_) files.push_back(file->mapped());
  return files;
}

const StoredTensor* Checkpoint::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : it->second;
}

std::string Checkpoint::LayoutDigest() const {
  std::string layout;
  for (const auto& [name, tensor] : tensors_) {
    layout += name + " " + tensor->dtype + " " + tensor->ShapeText() + "\n";
  }
  return Sha256Hex(layout);
}

}  // namespace facet::worker
