package levee.tests.inventory;

public record OrderResult(String orderId, boolean confirmed) {}
