// The control connection of a group against strangers, silence and noise; what ranks see of each
// other in good order is in tests/conformance/communicator_test.cc.
#include "worker/comm/group_control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "worker/comm/control_message.h"

namespace facet::worker {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using testing::ElementsAre;
using testing::HasSubstr;

using Joined = StatusOr<std::unique_ptr<GroupControl>>;

// A port that nobody listens on; bound by this process, so that nobody else gets it.
class Rendezvous {
 public:
  Rendezvous() : socket_(io_, tcp::v4()) {
    socket_.set_option(tcp::socket::reuse_address(true));
    socket_.bind({asio::ip::address_v4::loopback(), 0});
  }

  GroupControl::Options Options(int32_t rank, const std::string& key = "right") const {
    return {.rank = rank,
            .num_ranks = 2,
            .epoch_min = 4,
            .rendezvous_address = StrCat("127.0.0.1:", socket_.local_endpoint().port()),
            .group_key = key};
  }

  std::future<Joined> Join(const GroupControl::Options& options) const {
    return std::async(std::launch::async, [options] {
      return GroupControl::Join(options, StrCat("address of rank ", options.rank),
                                absl::Seconds(10), [] {});
    });
  }

  // A connection to the hub, once it listens.
  tcp::socket Connect() {
    tcp::socket socket(io_);
    boost::system::error_code error = asio::error::not_connected;
    for (int i = 0; error && i < 1000; ++i) {
      socket = tcp::socket(io_);
      socket.connect(socket_.local_endpoint(), error);
      if (error) absl::SleepFor(absl::Milliseconds(5));
    }
    EXPECT_FALSE(error) << error.message();
    return socket;
  }

 private:
  asio::io_context io_;
  tcp::socket socket_;
};

ControlMessage Read(tcp::socket& socket) {
  uint32_t length = 0;
  asio::read(socket, asio::buffer(&length, sizeof length));
  std::string body(length, '\0');
  asio::read(socket, asio::buffer(body));
  return DecodeControl(body).value();
}

// The Hello of rank 1 with the right key.
ControlMessage HelloOfRank1(const ControlMessage& challenge) {
  ControlMessage hello = {.type = ControlType::kHello,
                          .rank = 1,
                          .num_ranks = 2,
                          .epoch = 4,
                          .texts = {FreshNonce(), "", "address of rank 1"}};
  hello.texts[1] = GroupProof("right", ProofBy::kRank, challenge.texts.at(0), hello);
  return hello;
}

TEST(GroupControlTest, RanksLearnEachOthersAddresses) {
  const Rendezvous rendezvous;
  auto second = rendezvous.Join(rendezvous.Options(1));  // Comes before there is a hub.
  auto first = rendezvous.Join(rendezvous.Options(0));
  const Joined ranks[] = {first.get(), second.get()};
  for (const Joined& rank : ranks) {
    ASSERT_TRUE(rank.ok()) << rank.status();
    EXPECT_THAT((*rank)->addresses(), ElementsAre("address of rank 0", "address of rank 1"));
  }
}

TEST(GroupControlTest, AHostThatIsNotKnownYetMayBeKnownLater) {
  GroupControl::Options options = Rendezvous().Options(1);
  options.rendezvous_address = "rank-0..pool:7270";  // No resolver has to be asked.
  const Joined joined = GroupControl::Join(options, "address of rank 1", absl::Seconds(1), [] {});
  EXPECT_TRUE(absl::IsUnavailable(joined.status())) << joined.status();
}

TEST(GroupControlTest, AnotherKeyIsRefusedAndTheGroupFormsAllTheSame) {
  const Rendezvous rendezvous;
  auto first = rendezvous.Join(rendezvous.Options(0));
  const Joined stranger = rendezvous.Join(rendezvous.Options(1, "wrong")).get();
  EXPECT_TRUE(absl::IsPermissionDenied(stranger.status())) << stranger.status();
  const Joined second = rendezvous.Join(rendezvous.Options(1)).get();
  EXPECT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(first.get().ok());
}

TEST(GroupControlTest, AGroupOfAnotherSizeIsRefused) {
  const Rendezvous rendezvous;
  auto first = rendezvous.Join(rendezvous.Options(0));
  GroupControl::Options larger = rendezvous.Options(1);
  larger.num_ranks = 3;
  EXPECT_TRUE(absl::IsFailedPrecondition(rendezvous.Join(larger).get().status()));
  const Joined second = rendezvous.Join(rendezvous.Options(1)).get();
  EXPECT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(first.get().ok());
}

TEST(GroupControlTest, NoiseAtTheRendezvousHarmsNobody) {
  Rendezvous rendezvous;
  auto first = rendezvous.Join(rendezvous.Options(0));
  const std::string noises[] = {std::string("GET / HTTP/1.1\r\n\r\n"),
                                std::string(4, '\xff'),
                                std::string(4, '\0'),
                                std::string("\x04\0\0\0junk", 8),
                                EncodeControl({.type = ControlType::kStart}),
                                EncodeControl({.type = ControlType::kHello, .rank = -5})};
  for (const std::string& noise : noises) {
    tcp::socket socket = rendezvous.Connect();
    EXPECT_EQ(Read(socket).type, ControlType::kChallenge);
    asio::write(socket, asio::buffer(noise));
    std::string answer;  // Refused or closed, but answered.
    boost::system::error_code error;
    socket.shutdown(tcp::socket::shutdown_send, error);
    asio::read(socket, asio::dynamic_buffer(answer), error);
    EXPECT_TRUE(error);
  }
  const Joined second = rendezvous.Join(rendezvous.Options(1)).get();
  EXPECT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(first.get().ok());
}

TEST(GroupControlTest, AHelloHeardOnceOpensNoSecondConnection) {
  Rendezvous rendezvous;
  auto first = rendezvous.Join(rendezvous.Options(0));
  tcp::socket heard = rendezvous.Connect();
  const ControlMessage old_hello = HelloOfRank1(Read(heard));
  tcp::socket replay = rendezvous.Connect();
  Read(replay);
  asio::write(replay, asio::buffer(EncodeControl(old_hello)));
  EXPECT_EQ(Read(replay).type, ControlType::kRefused);
  asio::write(heard, asio::buffer(EncodeControl(old_hello)));
  EXPECT_TRUE(first.get().ok());
}

TEST(GroupControlTest, ASilentRankIsLost) {
  Rendezvous rendezvous;
  auto first = rendezvous.Join(rendezvous.Options(0));
  tcp::socket silent = rendezvous.Connect();
  asio::write(silent, asio::buffer(EncodeControl(HelloOfRank1(Read(silent)))));
  const Joined rank = first.get();
  ASSERT_TRUE(rank.ok()) << rank.status();
  const int64_t start_ns = Clock::Real().NowNs();
  while ((*rank)->status().ok() && Clock::Real().NowNs() - start_ns < 5'000'000'000) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_TRUE(absl::IsUnavailable((*rank)->status()));
  EXPECT_THAT(MessageOf((*rank)->status()), HasSubstr("epoch 4 ended by rank 1: silent for"));
}

TEST(GroupControlTest, TheGroupsEpochIsTheHighestThatARankCameWith) {
  const Rendezvous rendezvous;
  GroupControl::Options survivor = rendezvous.Options(1);
  survivor.epoch_min = 9;
  auto first = rendezvous.Join(rendezvous.Options(0));
  auto second = rendezvous.Join(survivor);
  const Joined ranks[] = {first.get(), second.get()};
  for (const Joined& rank : ranks) {
    ASSERT_TRUE(rank.ok()) << rank.status();
    EXPECT_EQ((*rank)->epoch(), 9);
  }
}

TEST(GroupControlTest, ASecondProcessForARankInUseIsRefusedAndDoesNoHarm) {
  const Rendezvous rendezvous;
  GroupControl::Options options = rendezvous.Options(1);
  options.silence_ms = 300;  // So that it gives up soon.
  auto zero = rendezvous.Join(rendezvous.Options(0));
  auto one = rendezvous.Join(rendezvous.Options(1));
  const Joined ranks[] = {zero.get(), one.get()};
  for (const Joined& rank : ranks) ASSERT_TRUE(rank.ok()) << rank.status();
  const Joined second = rendezvous.Join(options).get();
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  EXPECT_THAT(MessageOf(second.status()), HasSubstr("rank 1 of epoch 4 is taken"));
  for (const Joined& rank : ranks) EXPECT_TRUE((*rank)->status().ok()) << (*rank)->status();
}

TEST(GroupControlTest, ASpareBecomesTheRankThatIsMissing) {
  const Rendezvous rendezvous;
  GroupControl::Options options = rendezvous.Options(0);
  options.spare_after_ms = 200;
  auto spare = std::async(std::launch::async, [&] {
    return GroupControl::AwaitAssignment(options, absl::Seconds(10));
  });
  auto zero = rendezvous.Join(options);
  const StatusOr<int32_t> rank = spare.get();
  ASSERT_TRUE(rank.ok()) << rank.status();
  EXPECT_EQ(*rank, 1);
  const Joined one = rendezvous.Join(rendezvous.Options(*rank)).get();
  EXPECT_TRUE(one.ok()) << one.status();
  EXPECT_TRUE(zero.get().ok());
}

TEST(GroupControlTest, ASpareThatNobodyWantsHearsSoAtItsDeadline) {
  const Rendezvous rendezvous;
  auto zero = rendezvous.Join(rendezvous.Options(0));
  auto one = rendezvous.Join(rendezvous.Options(1));
  const Joined ranks[] = {zero.get(), one.get()};
  for (const Joined& rank : ranks) ASSERT_TRUE(rank.ok()) << rank.status();
  const auto spare = GroupControl::AwaitAssignment(rendezvous.Options(0), absl::Milliseconds(300));
  EXPECT_TRUE(absl::IsDeadlineExceeded(spare.status())) << spare.status();
}

TEST(ControlMessageTest, CutOrChangedMessagesAreRefusedOrReadWithinBounds) {
  const ControlMessage message = {.type = ControlType::kFault,
                                  .kind = FaultKind::kLost,
                                  .rank = 3,
                                  .num_ranks = 4,
                                  .epoch = 1LL << 40,
                                  .step = 12,
                                  .numbers = {1, -1, 1LL << 50},
                                  .texts = {"a reason", "", std::string(1000, 'x')}};
  const std::string body = EncodeControl(message).substr(4);
  const auto same = DecodeControl(body);
  ASSERT_TRUE(same.has_value());
  EXPECT_EQ(EncodeControl(*same).substr(4), body);
  EXPECT_EQ(same->texts, message.texts);
  EXPECT_EQ(same->numbers, message.numbers);
  for (size_t length = 0; length < body.size(); ++length) {
    EXPECT_FALSE(DecodeControl(body.substr(0, length)).has_value()) << length;
  }
  EXPECT_FALSE(DecodeControl(body + "x").has_value());
  std::mt19937 random(7);
  for (int i = 0; i < 20'000; ++i) {
    std::string changed = body;
    for (int k = 0; k < 3; ++k) changed[random() % 70] = static_cast<char>(random());
    const auto read = DecodeControl(changed);
    if (!read) continue;
    EXPECT_EQ(EncodeControl(*read).substr(4), changed);
  }
}

TEST(ControlMessageTest, RandomBytesAreRefusedOrReadWithinBounds) {
  std::mt19937 random(8);
  for (int i = 0; i < 100'000; ++i) {
    std::string body(random() % 120, '\0');
    for (char& byte : body) byte = random() % 2 == 0 ? '\0' : static_cast<char>(random());
    if (!body.empty()) body[0] = static_cast<char>(random() % 16);
    const auto read = DecodeControl(body);
    if (!read) continue;
    EXPECT_LE(read->numbers.size(), 3U * kGroupRanksMax);
    EXPECT_EQ(EncodeControl(*read).substr(4), body);
  }
}

}  // namespace
}  // namespace facet::worker
