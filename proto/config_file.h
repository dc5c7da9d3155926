// Reads the cluster's YAML file into ClusterConfig, checked whole: what comes back needs no further
// check. An error is one sentence with file, line, field, value and bound:
//   cluster.yaml:7: router.relay_threads is 0.5; it must be an integer from 0 to 64
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "facet/v1/config.pb.h"

namespace facet {

// Reads the file at path. Paths in it become absolute or relative to the working directory, as path
// is.
StatusOr<v1::ClusterConfig> ReadClusterConfig(const std::string& path);

// As ReadClusterConfig for the text of a file: file_name stands in errors, and relative paths are
// resolved against directory.
StatusOr<v1::ClusterConfig> ParseClusterConfig(const std::string& yaml,
                                               std::string_view file_name,
                                               std::string_view directory);

// INVALID_ARGUMENT names field and address if a worker must not serve there: beyond loopback
// (127.0.0.0/8, ::1, localhost) without worker_tls, unless the config says insecure_network.
Status CheckWorkerAddress(const v1::ClusterConfig& config,
                          std::string_view field,
                          const std::string& address);

}  // namespace facet
