import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;

/** A provider as Dubbo's own quick start has it: {@code java Provider ZOOKEEPER PORT QOS_PORT}. */
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
