#include "worker/comm/control_connection.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "base/status.h"

namespace facet::worker {

namespace asio = boost::asio;
using boost::system::error_code;

ControlConnection::ControlConnection(asio::ip::tcp::socket socket) : socket_(std::move(socket)) {
  error_code error;
  socket_.set_option(asio::ip::tcp::no_delay(true), error);
  const auto endpoint = socket_.remote_endpoint(error);
  peer_ = error ? "?" : StrCat(endpoint);
}

void ControlConnection::Start(OnMessage on_message, OnClosed on_closed) {
  on_message_ = std::move(on_message);
  on_closed_ = std::move(on_closed);
  ReadLength();
}

void ControlConnection::Send(const ControlMessage& message) {
  if (!open() || finishing_) return;
  if (unsent_.size() >= kUnsentMax) {
    // Whoever sends is not to hear of the end before it is done.
    asio::post(socket_.get_executor(), [self = shared_from_this()] {
      if (self->open()) self->CloseBecause("does not read");
    });
    finishing_ = true;
    return;
  }
  unsent_.push_back(EncodeControl(message));
  if (unsent_.size() == 1) Write();
}

void ControlConnection::FinishSending() {
  finishing_ = true;
  error_code ignored;
  if (unsent_.empty() && open()) socket_.shutdown(asio::socket_base::shutdown_send, ignored);
}

void ControlConnection::Close() {
  error_code ignored;
  socket_.close(ignored);
}

void ControlConnection::ReadLength() {
  asio::async_read(
      socket_, asio::buffer(&length_, sizeof length_),
      [self = shared_from_this()](const error_code& error, size_t) {
        if (!self->open()) return;
        if (error) {
          self->CloseBecause(error == asio::error::eof ? "connection closed" : error.message());
        } else if (self->length_ == 0 || self->length_ > kControlMessageBytesMax) {
          self->CloseBecause(StrCat("sent a message of ", self->length_, " bytes; at most ",
                                    kControlMessageBytesMax, " may come"));
        } else {
          self->ReadBody();
        }
      });
}

void ControlConnection::ReadBody() {
  body_.resize(length_);
  asio::async_read(socket_, asio::buffer(body_),
                   [self = shared_from_this()](const error_code& error, size_t) {
                     if (!self->open()) return;
                     if (error) return self->CloseBecause("connection closed within a message");
                     std::optional<ControlMessage> message = DecodeControl(self->body_);
                     if (!message) return self->CloseBecause("sent what is no control message");
                     self->on_message_(*std::move(message));
                     if (self->open()) self->ReadLength();
                   });
}

void ControlConnection::Write() {
  asio::async_write(socket_, asio::buffer(unsent_.front()),
                    [self = shared_from_this()](const error_code& error, size_t) {
                      if (!self->open() || error) return;  // The read says why.
                      self->unsent_.pop_front();
                      if (!self->unsent_.empty()) return self->Write();
                      if (self->finishing_) self->FinishSending();
                    });
}

void ControlConnection::CloseBecause(const std::string& reason) {
  Close();
  on_closed_(reason);
}

}  // namespace facet::worker
