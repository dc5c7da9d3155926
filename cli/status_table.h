// GetStatus as a table for people.
#pragma once

#include <string>

#include "cli/terminal.h"
#include "facet/v1/inference.pb.h"

namespace facet {

// A line on the cluster, then one row for each worker, boxed; reasons of workers that are not ready
// stand below.
std::string StatusTable(const v1::GetStatusResponse& status, const Paint& paint);

}  // namespace facet
