// Which backend a choice of words opens, with CUDA on the emulator.
#include "kernels/open_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace facet::kernels {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(OpenBackendTest, KernelTablesHaveNamesThatDevicesKnow) {
  EXPECT_EQ(OpenBackend({.device = "cpu", .kernels = "exact"}).backend->kernel_table(), "exact-1");
  EXPECT_EQ(OpenBackend({.device = "cuda:0"}).backend->kernel_table(), "exact-1");
  EXPECT_EQ(OpenBackend({.device = "cpu", .kernels = "fast"}).error,
            "kernels is fast; the cpu has exact only");
  EXPECT_EQ(OpenBackend({.device = "cuda:0", .kernels = "quick"}).error,
            "kernels is quick; exact and fast exist");
}

TEST(OpenBackendTest, FastNeedsCublasLt) {
  const OpenedBackend without = OpenBackend(
      {.device = "cuda:0", .kernels = "fast", .cublas_lt = "/nowhere/libcublasLt.so.13"});
  EXPECT_EQ(without.backend, nullptr);
  EXPECT_THAT(without.error, AllOf(HasSubstr("kernels is fast"), HasSubstr("cuBLASLt"),
                                   HasSubstr("/nowhere/libcublasLt.so.13")));
  const OpenedBackend with =
      OpenBackend({.device = "cuda:0", .kernels = "fast", .cublas_lt = FAKE_CUBLAS_LT});
  ASSERT_NE(with.backend, nullptr) << with.error;
  EXPECT_EQ(with.backend->kernel_table(), "fast-1");
}

TEST(OpenBackendTest, ADeviceWithoutANumberIsTheFirst) {
  const OpenedBackend first = OpenBackend({.device = "cuda"});
  ASSERT_NE(first.backend, nullptr) << first.error;
  for (const char* device : {"cuda:", "cuda0", "cuda:0x", "tpu"}) {
    EXPECT_EQ(OpenBackend({.device = device}).error,
              std::string("device is ") + device + "; it must be cpu, cuda or cuda:N");
  }
}

TEST(OpenBackendTest, PerLayerEmbeddingsMayStayOnTheHost) {
  EXPECT_TRUE(OpenBackend({.device = "cuda"}).backend->Memory().holds_tables);
  const OpenedBackend opened = OpenBackend({.device = "cuda", .ple_on_host = true});
  ASSERT_NE(opened.backend, nullptr) << opened.error;
  EXPECT_FALSE(opened.backend->Memory().holds_tables);
  EXPECT_EQ(OpenBackend({.device = "cpu", .ple_on_host = true}).error,
            "ple_on_host is true; only CUDA has memory of its own");
}

}  // namespace
}  // namespace facet::kernels
