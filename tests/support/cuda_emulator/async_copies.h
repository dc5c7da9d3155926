// Copies of one thread that are on their way to shared memory, in commit groups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace facet::cuda_emulator {

struct AsyncCopies {
  struct Copy {
    std::byte* to;
    const std::byte* from;
    uint32_t bytes;
    bool valid;

    void Land() const {
      if (valid) {
        std::memcpy(to, from, bytes);
      } else {
        std::memset(to, 0, bytes);
      }
    }
  };

  std::vector<Copy> copies;
  std::vector<size_t> group_ends;  // Index into copies after each committed group.

  bool empty() const { return copies.empty(); }

  void Commit() { group_ends.push_back(copies.size()); }

  // Lands all groups but the youngest groups_left.
  void Wait(size_t groups_left) {
    if (group_ends.size() <= groups_left) return;
    const size_t num_groups = group_ends.size() - groups_left;
    const size_t num_copies = group_ends[num_groups - 1];
    for (size_t i = 0; i < num_copies; ++i) copies[i].Land();
    copies.erase(copies.begin(), copies.begin() + static_cast<ptrdiff_t>(num_copies));
    group_ends.erase(group_ends.begin(), group_ends.begin() + static_cast<ptrdiff_t>(num_groups));
    for (size_t& end : group_ends) end -= num_copies;
  }

  // Those that have not landed are the caller's now.
  std::vector<Copy> Take() {
    std::vector<Copy> taken;
    taken.swap(copies);
    group_ends.clear();
    return taken;
  }

  void Clear() {
    copies.clear();
    group_ends.clear();
  }
};

}  // namespace facet::cuda_emulator
