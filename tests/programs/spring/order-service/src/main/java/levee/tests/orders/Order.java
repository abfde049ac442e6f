package levee.tests.orders;

public record Order(String id, String item, int quantity) {}
