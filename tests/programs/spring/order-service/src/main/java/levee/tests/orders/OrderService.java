package levee.tests.orders;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.annotation.Bean;
import org.springframework.kafka.config.TopicBuilder;
import org.springframework.kafka.core.KafkaAdmin.NewTopics;

/** Takes orders, and ships those that the inventory confirms. */
@SpringBootApplication
public class OrderService {
    public static void main(String[] args) {
        SpringApplication.run(OrderService.class, args);
    }

    @Bean
    NewTopics topics() {
        return new NewTopics(
                topic("orders").config("min.insync.replicas", "1").build(),
                topic("order-log").compact().build(),
                topic("order-results").build(),
                topic("shipments").build());
    }

    private static TopicBuilder topic(String name) {
        return TopicBuilder.name(name).partitions(3).replicas(1);
    }
}
