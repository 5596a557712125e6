import java.io.IOException;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;

/**
 * A provider as Dubbo's own quick start has it: {@code java Provider ZOOKEEPER PORT QOS_PORT}. Ends with its standard
 * input, which the harness holds open, so that none is left behind, not even by a wrapper that was killed.
 */
public final class Provider implements Greeter {
    @Override
    public String greet(String name, int ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException e) {
            throw new IllegalStateException("interrupted by the shutdown", e);
        }
        return "hello " + name;
    }

    public static void main(String[] args) {
        Thread harness = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {}
            } catch (IOException e) {
                // As good as its end.
            }
            Runtime.getRuntime().halt(3);
        }, "harness");
        harness.setDaemon(true);
        harness.start();
        ApplicationConfig application = new ApplicationConfig("greeter-provider");
        application.setQosPort(Integer.parseInt(args[2]));
        application.setRegisterMode("interface");
        application.setLogger("slf4j");
        ProtocolConfig protocol = new ProtocolConfig("dubbo", Integer.parseInt(args[1]));
        protocol.setHost("127.0.0.1");
        ServiceConfig<Greeter> service = new ServiceConfig<>();
        service.setInterface(Greeter.class);
        service.setRef(new Provider());
        DubboBootstrap.getInstance()
                .application(application)
                .registry(new RegistryConfig("zookeeper://127.0.0.1:" + args[0]))
                .protocol(protocol)
                .service(service)
                .start();
        System.out.println("provider up");
        DubboBootstrap.getInstance().await();
    }
}
