import java.nio.file.Path;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.cloud.netflix.eureka.server.EnableEurekaServer;
import org.springframework.context.annotation.Configuration;

/**
 * A Eureka server on 127.0.0.1: PORT DIR [-Dproperty=value..]. It writes nothing, but in DIR, if anything. Other
 * settings are those of resources/application.properties. Ends with its standard input.
 */
@Configuration(proxyBeanMethods = false)
@EnableAutoConfiguration
@EnableEurekaServer
public class Server {
    public static void main(String[] args) {
        Child.properties(args);
        Child.endsWithItsParent(Path.of(args[1]).toAbsolutePath());
        System.setProperty("server.port", args[0]);
        SpringApplication.run(Server.class);
    }
}
