#include "proto/grpc_status.h"

#include <grpcpp/support/status.h>
#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace facet {
namespace {

TEST(GrpcStatusTest, DetailsSurviveTheWire) {
  const Status status = WithRetryAfter(
      WithField(WithReason(ResourceExhausted("full"), "QUEUE_FULL"), "messages"), 1500);
  const Status back = FromGrpcStatus(ToGrpcStatus(status));
  EXPECT_EQ(back.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(MessageOf(back), "full");
  EXPECT_EQ(ReasonOf(back), "QUEUE_FULL");
  EXPECT_EQ(FieldOf(back), "messages");
  EXPECT_EQ(RetryAfterMsOf(back), 1500);
}

TEST(GrpcStatusTest, AnErrorAlwaysHasErrorInfo) {
  google::rpc::Status wire;
  ASSERT_TRUE(wire.ParseFromString(ToGrpcStatus(InvalidArgument("bad")).error_details()));
  ASSERT_EQ(wire.details_size(), 1);
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(wire.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "INVALID_ARGUMENT");
  EXPECT_EQ(info.domain(), "facet.dev");
}

TEST(GrpcStatusTest, OkHasNoDetails) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(GrpcStatusTest, ForeignDetailsAreNoError) {
  const Status status = FromGrpcStatus(grpc::Status(grpc::StatusCode::INTERNAL, "odd", "\xff\x01"));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(RetryAfterMsOf(status), std::nullopt);
}

}  // namespace
}  // namespace facet
