package levee.tests.inventory;

import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.kafka.support.Acknowledgment;
import org.springframework.stereotype.Component;

/** At least once: an order is acknowledged when its answer is written. */
@Component
public class OrderListener {
    private final KafkaTemplate<Object, Object> kafka;
    private final Stock stock;

    OrderListener(KafkaTemplate<Object, Object> kafka, Stock stock) {
        this.kafka = kafka;
        this.stock = stock;
    }

    @KafkaListener(topics = "orders", concurrency = "2")
    void handle(Order order, Acknowledgment acknowledgment) {
        boolean confirmed = stock.reserve(order);
        kafka.send("order-results", order.id(), new OrderResult(order.id(), confirmed)).join();
        acknowledgment.acknowledge();
    }
}
