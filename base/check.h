// Assertions about our own beliefs (style.md section 5). A failed check prints where and what, then
// aborts: nothing a client or peer sends may reach one. Plain C++, so that .cu files may use it.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

namespace facet {

// Collects the values streamed into a failed check and ends the process when destroyed.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition) {
    message_ << file << ":" << line << ": check failed: " << condition;
  }

  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;

  [[noreturn]] ~CheckFailure() {
    std::fprintf(stderr, "%s\n", message_.str().c_str());
    std::fflush(stderr);
    std::abort();
  }

  template <typename T>
  CheckFailure& operator<<(const T& value) {
    message_ << " " << value;
    return *this;
  }

 private:
  std::ostringstream message_;
};

// Turns a streamed check into void, so that both arms of ?: agree.
struct CheckVoidify {
  void operator&(const CheckFailure&) const {}
};

}  // namespace facet

// The condition stands unwrapped in ?:, so that << binds to what follows it.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define FACET_CHECK(condition) \
  (condition) ? (void)0        \
              : ::facet::CheckVoidify() & ::facet::CheckFailure(__FILE__, __LINE__, #condition)

#define FACET_CHECK_OP(op, a, b) FACET_CHECK((a)op(b)) << "(" << (a) << "vs" << (b) << ")"
#define FACET_CHECK_EQ(a, b) FACET_CHECK_OP(==, a, b)
#define FACET_CHECK_NE(a, b) FACET_CHECK_OP(!=, a, b)
#define FACET_CHECK_LE(a, b) FACET_CHECK_OP(<=, a, b)
#define FACET_CHECK_LT(a, b) FACET_CHECK_OP(<, a, b)
#define FACET_CHECK_GE(a, b) FACET_CHECK_OP(>=, a, b)
#define FACET_CHECK_GT(a, b) FACET_CHECK_OP(>, a, b)

#ifdef FACET_DCHECKS
#define FACET_DCHECK(condition) FACET_CHECK(condition)
#else
#define FACET_DCHECK(condition) \
  while (false) FACET_CHECK(condition)
#endif
// NOLINTEND(bugprone-macro-parentheses)
