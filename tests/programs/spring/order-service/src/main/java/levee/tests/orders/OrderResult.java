package levee.tests.orders;

public record OrderResult(String orderId, boolean confirmed) {}
