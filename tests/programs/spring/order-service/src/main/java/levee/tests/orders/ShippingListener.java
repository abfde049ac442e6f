package levee.tests.orders;

import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.stereotype.Component;

/** Reads and writes in one transaction of its container: a result gives one shipment. */
@Component
public class ShippingListener {
    private final KafkaTemplate<String, Object> kafka;

    ShippingListener(KafkaTemplate<String, Object> kafka) {
        this.kafka = kafka;
    }

    @KafkaListener(topics = "order-results")
    void ship(OrderResult result) {
        if (result.confirmed()) {
            kafka.send("shipments", result.orderId(), result);
        }
    }
}
